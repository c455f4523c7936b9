"""How many weights a language model computes with, read from its files; nothing is loaded, torch included."""

from __future__ import annotations

import json
import math
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from softgrpo.errors import PolicyError
from softgrpo.policy.model_files import CONFIG, WEIGHTS, locate_weights, read_config

USUAL = {"tiny": 10_600_000, "mini": 106_000_000, "small": 358_000_000, "large": 973_000_000}
"""Weights of the presets' models without their embeddings, for models whose files are not on this machine."""
WITH_EMBEDDINGS = {"tiny": 22_700_000, "mini": 134_500_000, "small": 494_000_000, "large": 1_236_000_000}
"""The same with their embeddings."""
EMBEDDINGS = "embed"  # in the names of tensors that are looked up, not multiplied
GGUF_BYTES = 0.93
"""Bytes of a four-bit file for each weight outside the embeddings, of SmolLM2-135M. Reading the header would take seconds."""


def layer_weights(model_name: str, size: str) -> int:
    """Returns the number of weights that every token is multiplied with: all but the embeddings.

    Args:
        model_name: See `PolicyConfig.model_name`.
        size: Whose preset is taken where the model's files are not on this machine.

    Raises:
        PolicyError: A package, folder or file is not there, or a file of weights is broken.
    """
    return _count(model_name, USUAL[size], embeddings=False)


def all_weights(model_name: str, size: str) -> int:
    """Returns the number of weights that are held in memory, the embeddings among them; arguments as of `layer_weights`."""
    return _count(model_name, WITH_EMBEDDINGS[size], embeddings=True)


def _count(model_name: str, usual: int, *, embeddings: bool) -> int:
    source, gguf = locate_weights(model_name)
    if gguf is not None:
        return round((Path(source) / gguf).stat().st_size / GGUF_BYTES)
    files = sorted(Path(source).glob(WEIGHTS)) if Path(source).is_dir() else _cached(source, "model.safetensors")
    return sum(_in_safetensors(path, embeddings=embeddings) for path in files) if files else usual


def frozen_share(model_name: str, frozen_layers: int) -> float:
    """Returns which share of a model's layers is frozen, 0 to 1; 0 where its configuration is not on this machine.

    Args:
        model_name: See `PolicyConfig.model_name`.
        frozen_layers: See `PolicyConfig.frozen_layers`.

    Raises:
        PolicyError: A package or folder is not there, or its configuration is broken.
    """
    if not frozen_layers:
        return 0.0
    source, _ = locate_weights(model_name)
    folder = Path(source)
    found = [path for path in (folder / CONFIG,) if path.is_file()] if folder.is_dir() else _cached(source, CONFIG)
    layers = read_config(model_name, found[0]).get("num_hidden_layers") if found else None
    return min(frozen_layers / layers, 1.0) if isinstance(layers, int) and layers else 0.0


def _cached(hub_id: str, name: str) -> list[Path]:
    found = try_to_load_from_cache(hub_id, name)
    return [Path(found)] if isinstance(found, str) else []


def _in_safetensors(path: Path, *, embeddings: bool) -> int:
    """Returns the weights of one file, those of embeddings if wanted, from its header: its length in 8 bytes, then JSON."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            shapes = {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise PolicyError(
            f"'{path}'", f"it is no safetensors file ({error})", "Fetch the model again", code="POLICY-020"
        ) from error
    return sum(math.prod(shape) for name, shape in shapes.items() if embeddings or EMBEDDINGS not in name)
