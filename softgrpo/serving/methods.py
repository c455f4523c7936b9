"""Methods of a run that can be asked about new requests: rows of its table that weigh recallers.

Legend: B requests, M recallers, F numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.algorithm.batching import PromptCollator, PromptRows, predict_logits
from softgrpo.baselines.gates import GATES, Gate, load_gate
from softgrpo.common.artifacts import GATE
from softgrpo.config import ExperimentConfig
from softgrpo.errors import PolicyError, nearest
from softgrpo.evaluation.rows import argmax_one_hot
from softgrpo.policy.card import check_numbers
from softgrpo.policy.fast_cpu import BATCH, for_asking
from softgrpo.policy.model import Policy, load_policy
from softgrpo.policy.prior import floored_log, starting_weights
from softgrpo.policy.prompts import encode
from softgrpo.policy.window_inputs import LOG_PRIOR, NUMBERS
from softgrpo.serving.choice import POLICIES
from softgrpo.serving.requests import Described
from softgrpo.stages.inputs import Prepared

STATIC = "static"
SINGLE = "_single"
GATE_ROW = "gate_"
"""Beginning of the key of a gate's row; what follows is its name among `GATES`."""


class Weigher(Protocol):
    """Gives the recallers' weights for requests."""

    def __call__(self, asked: Described) -> NDArray[np.float64]:
        """Returns weights (B, M), finite, not negative, not all zero in a row."""


@dataclass(frozen=True)
class FixedWeights:
    """The same weights for every request.

    Attributes:
        weights: (M,).
    """

    weights: NDArray[np.float64]

    def __call__(self, asked: Described) -> NDArray[np.float64]:
        """See `Weigher`."""
        return np.tile(self.weights, (len(asked.requests), 1))


@dataclass(frozen=True)
class GateWeigher:
    """Weights of a stored gate.

    Attributes:
        gate: The gate.
    """

    gate: Gate

    def __call__(self, asked: Described) -> NDArray[np.float64]:
        """See `Weigher`."""
        return self.gate.weights(asked.numbers.values, asked.lengths)


@dataclass(frozen=True)
class PolicyWeigher:
    """Weights of a language model, read as the stage `test` reads them.

    Attributes:
        policy: The model, its tokenizer and its card.
        config: Of the run: what prompts contain, batch size, precision, floor of the prior.
        gate: Whose weights each request starts from, where the policy has such a prior.
        largest: Whether all weight goes to the recaller with the largest.
    """

    policy: Policy
    config: ExperimentConfig
    gate: Gate | None = None
    largest: bool = False

    @property
    def batch_size(self) -> int:
        """Prompts per forward pass."""
        on_cpu = next(self.policy.model.parameters()).device.type == "cpu"
        return min(self.config.train.eval_batch_size, BATCH) if on_cpu else self.config.train.eval_batch_size

    def __call__(self, asked: Described) -> NDArray[np.float64]:
        """See `Weigher`."""
        config, card = self.config, self.policy.card
        prompts = encode(asked.prompts(config.told_prompt), self.policy.tokenizer, config.prompt.max_length)
        values = asked.numbers.values
        read = {} if card.reads_numbers == "none" else {NUMBERS: values.astype(np.float32)}
        if self.gate is not None:
            start = floored_log(self.gate.weights(values, asked.lengths), config.policy.prior_floor)
            read[LOG_PRIOR] = start.astype(np.float32)
        logits = predict_logits(
            self.policy.model,
            PromptRows(prompts.input_ids, read),
            PromptCollator(self.policy.tokenizer),
            self.batch_size,
            config.train.bf16,
            "requests",
        )
        weights = (logits.double() / card.reading_tau).softmax(-1)
        return (argmax_one_hot(weights) if self.largest else weights).numpy()


def open_policy(folder: Path, config: ExperimentConfig, names: tuple[str, ...], *, largest: bool) -> PolicyWeigher:
    """Opens a stored policy.

    Args:
        folder: Of the stage `sft` or `grpo`.
        config: Of the run.
        names: Of the numbers of requests.
        largest: See `PolicyWeigher`.

    Raises:
        PolicyError: There is none, or it reads other numbers.
    """
    policy = load_policy(folder, config.policy, config.recall.recallers)
    check_numbers(policy.card, names)
    if config.train.device != "cpu" and torch.cuda.is_available():
        policy.model.to("cuda")
    elif not config.train.bf16:
        for_asking(policy.model.eval())
    gate = Gate.load(folder / GATE) if policy.card.prior_per_window else None
    return PolicyWeigher(policy, config, gate, largest)


def fixed_weights(prepared: Prepared) -> dict[str, NDArray[np.float64]]:
    """Returns the rows of the table that have the same weights (M,) for everybody, under the run's own merge.

    They are every recaller alone, the uniform mixture, each search's optimum and the best static mixture with its floor.
    """
    recallers = prepared.config.recall.recallers
    rows: dict[str, NDArray[np.float64]] = dict(zip(recallers, np.eye(len(recallers)), strict=True))
    rows[f"uniform_{prepared.fusion.method}"] = np.full(len(recallers), 1 / len(recallers))
    for each in prepared.static.candidates:
        if each.name not in recallers and each.name != "uniform":
            rows[f"global_{each.name}"] = np.asarray(each.weights)
    rows[STATIC] = starting_weights(np.asarray(prepared.static.best.weights), prepared.config.policy).numpy()
    return rows


def stored_gates(folders: Mapping[str, Path]) -> list[str]:
    """Returns the rows of the gates that a run stored."""
    return [f"{GATE_ROW}{name}" for name in GATES if "gates" in folders and (folders["gates"] / name).is_dir()]


def open_weigher(key: str, prepared: Prepared, folders: Mapping[str, Path], names: tuple[str, ...]) -> Weigher:
    """Opens a method by its key in the table.

    Args:
        key: Such as `static`, `BPR`, `gate_network`, `sft_multi` or `grpo_single`.
        prepared: Output of the earlier stages.
        folders: Of the stages that the run has.
        names: Of the numbers of requests.

    Raises:
        PolicyError: The run has no such method, or stored nothing of it.
    """
    fixed = fixed_weights(prepared)
    if key in fixed:
        return FixedWeights(fixed[key])
    gates = stored_gates(folders)
    if key in gates:
        return GateWeigher(load_gate(folders["gates"], key.removeprefix(GATE_ROW)))
    stored = {name for name, stage in POLICIES.items() if stage in folders}
    if key in stored:
        return open_policy(folders[POLICIES[key]], prepared.config, names, largest=key.endswith(SINGLE))
    known = [*fixed, *gates, *sorted(stored)]
    raise PolicyError(
        f"method '{key}'",
        "the run stored nothing that can be asked under this name",
        nearest(key, known),
        code="POLICY-046",
    )
