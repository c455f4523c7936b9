"""Where datasets are looked for, in which order, and what a download does."""

from __future__ import annotations

import http.client
import io
import threading
import urllib.error
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from softgrpo.config import DataConfig
from softgrpo.data import locate as module
from softgrpo.data.corpus import read_corpus
from softgrpo.data.locate import DATA_VARIABLE, data_paths, download_address, known_datasets, locate
from softgrpo.errors import DataError
from tests.softgrpo.data.cases import INTER, sequences, write_table

NAME = "steam"
"""A dataset that RecBole has an address for, and that is packaged nowhere."""
FILES = {"steam.inter": f"{INTER}\na\tx\t2\na\ty\t1\n", "steam.item": "item_id:token\ttitle:token_seq\nx\tX\n"}


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the test into a folder without data, with no data path in the environment."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    return folder


def put(path: Path, name: str = "ml-100k") -> Path:
    """Writes a one-row dataset; returns its folder."""
    write_table(path / name / f"{name}.inter", INTER, [("a", "x", 1)])
    return path / name


def archive(files: dict[str, str]) -> bytes:
    """Returns a zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, text in files.items():
            zipped.writestr(name, text)
    return buffer.getvalue()


@contextmanager
def served(body: bytes, status: int = 200, length: int | None = None) -> Iterator[str]:
    """Serves a body on the loopback interface; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keeps the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{NAME}.zip"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_ml_100k_is_packaged() -> None:
    folder = locate(DataConfig(dataset="ml-100k"))
    assert folder.parts[-3:] == ("recbole", "dataset_example", "ml-100k")


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_working_directory: Path) -> None:
    """The packaged one is found last, then `./data` comes first, then the environment, then the setting, which is alone."""
    config = DataConfig(dataset="ml-100k")
    put(empty_working_directory / "data")
    assert locate(config) == Path("data/ml-100k")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "env"))
    assert locate(config) == Path("data/ml-100k")
    put(tmp_path / "env")
    assert locate(config) == tmp_path / "env" / "ml-100k"
    given = DataConfig(dataset="ml-100k", data_path=tmp_path / "given", download=False)
    assert data_paths(given) == [tmp_path / "given"]
    with pytest.raises(DataError, match=str(tmp_path / "given")):
        locate(given)
    put(tmp_path / "given")
    assert locate(given) == tmp_path / "given" / "ml-100k"


def test_a_dataset_is_a_folder_and_a_file_of_one_name(tmp_path: Path) -> None:
    put(tmp_path, "one")
    write_table(tmp_path / "two" / "other.inter", INTER, [("a", "x", 1)])
    (tmp_path / "three").mkdir()
    assert known_datasets(DataConfig(data_path=tmp_path)) == {"one": tmp_path / "one"}
    assert known_datasets(DataConfig(data_path=tmp_path / "none")) == {}


def test_unknown_datasets_are_refused_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("nothing is fetched"))
    put(tmp_path, "shop")
    with pytest.raises(DataError, match=r"--data-path.*SOFTGRPO_DATA.*'shop'.*\[DATA-010\]"):
        locate(DataConfig(dataset="shopp", data_path=tmp_path))
    with pytest.raises(DataError, match=r"'steam'.*\[DATA-011\]"):
        locate(DataConfig(dataset=NAME, data_path=tmp_path, download=False))


def test_recbole_addresses() -> None:
    for name in ("ml-100k", "ml-1m", "steam", "Amazon_All_Beauty", "Amazon_Beauty", "Yelp"):  # all dataset presets
        address = download_address(name)
        assert address is not None
        assert address.startswith("https://")
        assert address.endswith(".zip")
    assert download_address("nothing") is None


@pytest.mark.parametrize("error", [urllib.error.URLError("Name or service not known"), TimeoutError("timed out")])
def test_offline_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def urlopen(address: str, timeout: float) -> None:
        assert timeout <= 5
        raise error

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError) as caught:
        locate(DataConfig(dataset=NAME, data_path=tmp_path / "data"))
    assert f"dataset '{NAME}' has no {NAME}/{NAME}.inter in {tmp_path / 'data'}" in caught.value.received
    assert f"download from {download_address(NAME)} failed" in caught.value.rule
    assert str(error) in caught.value.rule
    assert f"Put {NAME}.inter into" in caught.value.remedy
    assert not list((tmp_path / "data").iterdir())


def test_a_download_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Files may lie in a folder of any name; what is no atomic file, or hidden, stays in the archive."""
    extra = {"steam/README.txt": "x", "__MACOSX/steam/._steam.inter": "no"}
    body = archive({f"steam/{name}": text for name, text in FILES.items()} | extra)
    config = DataConfig(dataset=NAME, data_path=tmp_path, k_core=0, min_user_items=1)
    with served(body) as address:
        monkeypatch.setattr(module, "download_address", lambda dataset: address)
        folder = locate(config)
    assert address in caplog.text
    assert folder == tmp_path / NAME
    assert {path.name: path.read_text() for path in folder.iterdir()} == FILES
    assert sequences(read_corpus(config, 1)) == {"a": ["y", "x"]}  # found again, with the server gone


def test_a_download_lands_in_the_data_path_that_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_working_directory: Path
) -> None:
    with served(archive({"other-name.inter": FILES["steam.inter"]})) as address:
        monkeypatch.setattr(module, "download_address", lambda dataset: address)
        assert locate(DataConfig(dataset=NAME)) == Path("data") / NAME
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "env"))
        (empty_working_directory / "data" / NAME / f"{NAME}.inter").unlink()
        assert locate(DataConfig(dataset=NAME)) == tmp_path / "env" / NAME


def test_a_broken_answer_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(address: str, timeout: float) -> None:
        raise http.client.BadStatusLine("no status")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    with pytest.raises(DataError, match=r"no status.*\[DATA-012\]"):
        locate(DataConfig(dataset=NAME, data_path=tmp_path))


GOOD = archive({"steam.inter": FILES["steam.inter"] * 50})


@pytest.mark.parametrize(
    ("body", "status", "length", "what"),
    [
        (b"<html>moved</html>", 200, None, "not a zip file"),
        (archive({"steam.csv": "a,b"}), 200, None, "no .inter file"),
        (b"", 404, None, "404"),
        (GOOD[:-30], 200, len(GOOD), "not a zip file"),  # the connection ends early
        (GOOD[:45] + b"\x00\xff\x00\xff" + GOOD[49:], 200, None, ""),  # damaged inside the compressed data
    ],
    ids=[
        "a page",
        "no interactions",
        "not found",
        "cut short",
        "damaged",
    ],  # bytes of an archive hold the time it was made
)
def test_a_bad_download_leaves_no_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes, status: int, length: int | None, what: str
) -> None:
    config = DataConfig(dataset=NAME, data_path=tmp_path)
    with served(body, status, length) as address:
        monkeypatch.setattr(module, "download_address", lambda dataset: address)
        with pytest.raises(DataError, match=f"download from {address} failed .*{what}"):
            locate(config)
    assert known_datasets(config) == {}
