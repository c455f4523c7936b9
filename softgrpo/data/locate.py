"""Where a dataset is: where it is said to be, the data path, the ml-100k packaged inside recbole, or RecBole's download address."""

from __future__ import annotations

import http.client
import importlib.util
import io
import logging
import os
import shutil
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import yaml

from softgrpo.config import DataConfig
from softgrpo.data.kinds import KNOWN, kind_of, stem_of
from softgrpo.errors import DataError, nearest
from softgrpo.reporting import ProgressBar

logger = logging.getLogger(__name__)

DATA_VARIABLE = "SOFTGRPO_DATA"
TIMEOUT_SECONDS = 5
SUFFIXES = (".inter", ".item", ".user")
INTERACTIONS = (
    *("interactions", "inter", "ratings", "reviews", "events", "clicks", "purchases", "transactions", "logs"),
    *("u.data", "ratings.dat"),
)
"""What a file of interactions is called in a folder, without its suffix; and so is one with the name of the folder."""
RECBOLE_NAMES = {"steam": "steam-merged", "amazon-all-beauty": "amazon-all-beauty-18"}  # of several variants


def data_paths(config: DataConfig) -> list[Path]:
    """Returns the folders that may hold dataset folders, in the order in which they are searched."""
    if config.data_path is not None:
        return [config.data_path]
    paths = [Path(os.environ[DATA_VARIABLE])] if os.environ.get(DATA_VARIABLE) else []
    paths.append(Path("data"))
    recbole = _recbole_folder()
    return [*paths, recbole / "dataset_example"] if recbole is not None else paths


def _recbole_folder() -> Path | None:
    spec = importlib.util.find_spec("recbole")
    return Path(spec.submodule_search_locations[0]) if spec is not None and spec.submodule_search_locations else None


def known_datasets(config: DataConfig) -> dict[str, Path]:
    """Returns the datasets whose files are on this machine: name to folder or file; no file is opened."""
    found: dict[str, Path] = {}
    for path in data_paths(config):
        if not path.is_dir():
            continue
        for file in sorted(path.glob("*/*.inter")):
            if file.stem == file.parent.name and file.is_file():
                found.setdefault(file.stem, file.parent)
        for entry in sorted(path.iterdir()):
            if _holds_tables(entry) if entry.is_dir() else _is_table(entry):
                found.setdefault(entry.name if entry.is_dir() else stem_of(entry), entry)
    return found


def _is_table(path: Path) -> bool:
    return path.is_file() and path.name[0] != "." and kind_of(path) in ("csv", "tsv", "parquet", "json")


def _holds_tables(folder: Path) -> bool:
    """Tells whether a folder holds a file that has the name of interactions."""
    names = {*INTERACTIONS, folder.name.lower()}
    return any(
        path.is_file() and kind_of(path) not in (None, "atomic") and stem_of(path).lower() in names
        for path in folder.iterdir()
    )


def download_address(dataset: str) -> str | None:
    """Returns the address that RecBole knows for a dataset, or None."""
    recbole = _recbole_folder()
    if recbole is None:
        return None
    addresses: dict[str, str] = yaml.safe_load((recbole / "properties/dataset/url.yaml").read_text(encoding="utf-8"))
    name = dataset.lower().replace("_", "-")
    return addresses.get(dataset) or addresses.get(RECBOLE_NAMES.get(name, name))


def locate(config: DataConfig) -> Path:
    """Returns the folder with a dataset's files, or its one file; downloads atomic files where RecBole knows an address.

    Raises:
        DataError: What was named is not there, the data path is no folder, or the files are not there and cannot be fetched.
    """
    if config.source is not None:
        return _named_source(config.source)
    if config.data_path is not None and not config.data_path.is_dir():
        what = "is a file" if config.data_path.exists() else "is not there"
        raise DataError(
            f"--data-path {config.data_path} {what}",
            "It must be a folder that holds a folder for each dataset, or will after a download",
            "Name the folder above the dataset's own, or make it",
            code="DATA-009",
        )
    folder = known_datasets(config).get(config.dataset)
    if folder is not None:
        return folder
    searched = ", ".join(str(path) for path in data_paths(config))
    address = download_address(config.dataset)
    remedy = (
        f"Put {config.dataset}.inter into <data path>/{config.dataset}/ and name the data path with "
        f"--data-path or {DATA_VARIABLE}. {nearest(config.dataset, known_datasets(config))}"
    )
    received = f"dataset '{config.dataset}' has no {config.dataset}/{config.dataset}.inter in {searched}"
    if address is None:
        raise DataError(
            received,
            "its atomic files must be in the data path, and RecBole knows no download address",
            remedy,
            code="DATA-010",
        )
    if not config.download:
        raise DataError(received, "downloads are switched off (data.download)", remedy, code="DATA-011")
    target = (config.data_path or Path(os.environ.get(DATA_VARIABLE) or "data")) / config.dataset
    logger.warning("dataset %s is not in %s: trying %s", config.dataset, searched, address)
    try:
        _download(address, config.dataset, target)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(received, f"its download from {address} failed ({error})", remedy, code="DATA-012") from error
    return target


def _named_source(path: Path) -> Path:
    if path.exists():
        return path
    beside = path.absolute().parent
    names = [entry.name for entry in beside.iterdir()] if beside.is_dir() else []
    raise DataError(
        f"'{path}' is not there",
        f"the data are a file or a folder: {KNOWN}",
        f"Correct the path. {nearest(path.name, names)}" if names else "Correct the path",
        code="DATA-047",
    )


def _download(address: str, dataset: str, target: Path) -> None:
    body = io.BytesIO()
    with (
        urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as response,
        ProgressBar.wrapattr(response, "read", response.length, desc=f"{dataset} download") as source,
    ):
        shutil.copyfileobj(source, body)
    archive = zipfile.ZipFile(body)
    names = [PurePosixPath(name) for name in archive.namelist()]
    # hidden files are what some systems add to an archive; the first file of a kind counts
    members = {name.suffix: str(name) for name in reversed(names) if name.suffix in SUFFIXES and name.name[0] != "."}
    if ".inter" not in members:
        raise zipfile.BadZipFile("the archive holds no .inter file")
    target.mkdir(parents=True, exist_ok=True)
    # the .inter file is what makes a folder a dataset, so it comes last
    for suffix in sorted(members, key=lambda suffix: suffix == ".inter"):
        aside = target / f".{dataset}{suffix}.part"
        aside.write_bytes(archive.read(members[suffix]))
        aside.replace(target / f"{dataset}{suffix}")
