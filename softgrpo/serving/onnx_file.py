"""A policy as an ONNX file: from token ids, and the numbers that it reads, to weights, with prior and temperature inside.

It is written by torch's own exporter and asked by onnxruntime, both in the extra `onnx`. Legend: B prompts, L tokens, F numbers,
M recallers.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from softgrpo.errors import ConfigError, PolicyError
from softgrpo.policy.model import Policy, merge_adapters
from softgrpo.policy.window_inputs import LOG_PRIOR

WEIGHTS = "weights"
"""Name of the output (B, M)."""
TOLERANCE = 1e-4
"""Largest difference between the weights of the file and those of the policy."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_PROMPTS = ("User: 24, M, technician, 197 items.", "User: 8 items.", "History, newest last: Sleeper; Fargo; Mask, The.")


class _Weights(nn.Module):
    """A policy's weights (B, M) for inputs in a fixed order."""

    def __init__(self, policy: Policy, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names, self.tau = policy.model, tuple(names), policy.card.reading_tau

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return (logits / self.tau).softmax(-1)


@dataclass(frozen=True)
class OnnxFile:
    """A written ONNX file.

    Attributes:
        inputs: Names of its inputs, in order.
        difference: Largest difference of its weights from the policy's on example prompts.
    """

    inputs: tuple[str, ...]
    difference: float


def check_onnx_installed() -> None:
    """Checks that the packages are there.

    Raises:
        ConfigError: One is not.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"an ONNX file without the package {', '.join(missing)}",
            "ONNX files are written with the extra onnx",
            "Run: pip install -e '.[onnx]' -c constraints.txt, or leave --onnx out",
            code="CONFIG-095",
        )


def write_onnx(path: Path, policy: Policy) -> OnnxFile:
    """Writes a policy as an ONNX file, asks it, and compares its weights with the policy's.

    Args:
        path: Of the file, in a folder that exists.
        policy: Any policy; adapters are merged. It is left without dropout.

    Returns:
        Names of its inputs, and how far its weights are from the policy's.

    Raises:
        ConfigError: The extra `onnx` is not installed.
        PolicyError: The weights differ by more than 1e-4.
    """
    check_onnx_installed()
    merged = merge_adapters(policy)
    merged.model.eval()
    example = _example(merged, _PROMPTS[:2])
    model = _Weights(merged, tuple(example)).eval()
    dynamic = tuple({axis: torch.export.Dim.DYNAMIC for axis in _open_axes(name)} for name in example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # operators of torchvision that nothing here uses
        program = torch.onnx.export(
            model,
            tuple(example.values()),
            dynamo=True,
            input_names=list(example),
            output_names=[WEIGHTS],
            dynamic_shapes={"inputs": dynamic},
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)
    difference = _difference(path, model, _example(merged, _PROMPTS))
    if not difference <= TOLERANCE:
        path.unlink()
        raise PolicyError(
            f"an ONNX file whose weights differ from the policy's by {difference:.2g}",
            f"They may differ by {TOLERANCE:g}",
            "Leave --onnx out, and report the model's name",
            code="POLICY-048",
        )
    return OnnxFile(tuple(example), difference)


def _open_axes(name: str) -> tuple[int, ...]:
    """Returns the axes of an input that may have any size: prompts, and for tokens their number."""
    return (0, 1) if name in ("input_ids", "attention_mask", "token_type_ids") else (0,)


def _example(policy: Policy, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Returns inputs of the policy for some prompts: its tokens, and the numbers and start of an average window."""
    encoded = policy.tokenizer(list(prompts), return_tensors="pt", padding=True)
    inputs: dict[str, Tensor] = {name: encoded[name] for name in encoded}
    for name, value in policy.typical_numbers().items():
        inputs[name] = value.repeat(len(prompts), 1)
    if policy.card.prior_per_window:
        count = len(policy.card.recallers)
        inputs[LOG_PRIOR] = torch.full((len(prompts), count), 1.0 / count).log()
    return inputs


def _difference(path: Path, model: _Weights, inputs: Mapping[str, Tensor]) -> float:
    """Returns the largest difference between a file's weights and a model's for inputs of other sizes than at the export."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (weights,) = session.run([WEIGHTS], {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        expected = model(*inputs.values()).numpy()
    return float(np.abs(weights - expected).max())
