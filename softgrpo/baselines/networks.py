"""Small networks on numbers, trained by policy gradient: SofT-GRPO, ordinary GRPO, and the per-user Dirichlet policy.

The first two are what the language model does, without the language: the tensor functions are those of
`softgrpo.algorithm.soft_grpo`. The
third is the per-user policy of Huang et al. (2024), arXiv 2410.16080: weights from a Dirichlet distribution whose parameters a
network gives, REINFORCE with the mean of a window's samples as baseline. All three start at the best static mixture, and of all
evaluations, the start included, the best on validation windows is kept.
Legend: B windows, G samples, M recallers, F numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from softgrpo.algorithm.noise import gumbel_noise
from softgrpo.algorithm.soft_grpo import (
    Density,
    check_finite,
    clipped_loss,
    exact_kl,
    group_advantages,
    log_density,
    sample,
)
from softgrpo.baselines.files import read_arrays, write_arrays
from softgrpo.baselines.inputs import Asked, GateData
from softgrpo.ranking.rewards import training_reward

Action = Literal["soft", "discrete", "dirichlet"]
Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, M) of the policy in training and advantages (B, G) to a scalar."""

HIDDEN = 32
LEARNING_RATE = 3e-3
EPOCHS, MAX_STEPS, BATCH = 20, 1000, 128
SAMPLES, ITERATIONS = 8, 2
TAU, EPSILON, BETA = 1.0, 0.2, 0.01
CONCENTRATION = 10.0
"""Sum of the Dirichlet parameters at the start."""
PARAMETERS, SMALLEST = (1e-2, 1e3), 1e-6
EVALUATIONS = 20
STORED = "network.safetensors"
"""The parameters of a stored gate."""
READINGS = (1.0, 0.5)
"""Temperatures that logits are read at; validation chooses."""


class Network(nn.Module):
    """Numbers (B, F) to logits (B, M): one hidden layer, and an output that starts at fixed logits.

    Args:
        numbers: F.
        start: (M,) the logits at the start.
    """

    start: Tensor

    def __init__(self, numbers: int, start: Tensor) -> None:
        super().__init__()
        last = nn.Linear(HIDDEN, len(start))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(numbers, HIDDEN), nn.Tanh(), last)
        self.register_buffer("start", start.float())

    def forward(self, numbers: Tensor) -> Tensor:
        """Returns logits (B, M) of numbers (B, F)."""
        logits: Tensor = self.layers(numbers) + self.start
        return logits


def _draw_grpo(
    logits: Tensor, action: Action, start: Tensor, scale: float, generator: torch.Generator
) -> tuple[Tensor, Loss]:
    """Returns samples (B, G, M) around softmax(logits), and their clipped loss with the divergence from the start (M,)."""
    density: Density = "discrete" if action == "discrete" else "noise"
    noise = gumbel_noise((len(logits), SAMPLES, logits.shape[1]), generator)
    samples = sample(logits, noise, TAU, 1.0, density, scale)

    def loss(new: Tensor, advantages: Tensor) -> Tensor:
        now = log_density(new, samples.perturbed, samples.support, TAU, density, scale)
        clipped = clipped_loss(now, samples.log_density, advantages, EPSILON, EPSILON)
        return clipped.loss + BETA * exact_kl(new, start.expand_as(new)).mean()

    return samples.weights, loss


def _dirichlet(logits: Tensor) -> torch.distributions.Dirichlet:
    return torch.distributions.Dirichlet(check_finite("logits", logits).exp().clamp(*PARAMETERS))


def _draw_dirichlet(logits: Tensor) -> tuple[Tensor, Loss]:
    """Returns samples (B, G, M) of the Dirichlet distributions with parameters exp(logits), and their loss (REINFORCE)."""
    drawn = _dirichlet(logits).sample((SAMPLES,)).clamp_min(SMALLEST)  # (G, B, M); log 0 would be infinite
    drawn = drawn / drawn.sum(-1, keepdim=True)

    def loss(new: Tensor, advantages: Tensor) -> Tensor:
        likelihood: Tensor = _dirichlet(new).log_prob(drawn)  # type: ignore[no-untyped-call]  # (G, B)
        return -(likelihood.T * advantages).mean()

    return drawn.transpose(0, 1), loss


def read(logits: Tensor, action: Action) -> tuple[Tensor, tuple[str, ...]]:
    """Returns what logits (B, M) can be read as, weights (B, R, M), and the R names of these readings."""
    if action == "discrete":
        return nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()[:, None], ("largest logit",)
    weights = torch.stack([(logits.double() / tau).softmax(-1) for tau in READINGS], dim=1)
    return weights, tuple(f"softmax(z / {tau:g})" for tau in READINGS)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network as it was best on validation windows.

    Attributes:
        network: Standardised numbers (B, F) to logits (B, M).
        action: What it was trained for.
        reading: Which of the readings of its logits was best, see `read`.
        valid_ndcg: Mean NDCG@`fusion.k` on validation windows.
        choice: What was chosen there, in words.
    """

    network: Network
    action: Action
    reading: int
    valid_ndcg: float
    choice: str

    @torch.inference_mode()
    def weights(self, asked: Asked) -> Tensor:
        """Returns the weights (B, M) float64 of windows."""
        return read(self.network(asked.numbers), self.action)[0][:, self.reading].clone()

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes the parameters, and returns how the logits are read."""
        write_arrays(folder / STORED, self.network.state_dict())
        return {"action": self.action, "reading": self.reading}

    @classmethod
    def load(cls, folder: Path, card: Mapping[str, Any]) -> Self:
        """Reads what `save` wrote."""
        state = read_arrays(folder / STORED)
        network = Network(len(card["names"]), state["start"])
        network.load_state_dict(state)
        return cls(network, card["action"], card["reading"], card["valid_ndcg"], card["choice"])


def fit_network(data: GateData, action: Action) -> TrainedNetwork:
    """Trains a network and returns it as it was at the best evaluation.

    Args:
        data: What it is trained and chosen on.
        action: soft (SofT-GRPO), discrete (ordinary GRPO: one recaller per sample) or dirichlet.

    Raises:
        TrainingError: A logit or a reward is not finite.
    """
    start = data.prior + math.log(CONCENTRATION) if action == "dirichlet" else data.prior
    best: TrainedNetwork | None = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.seed)
        network = Network(data.numbers[0].shape[1], start)
        for step in _train(network, data, action):
            reading, valid_ndcg, name = _evaluate(network, data, action)
            if best is None or valid_ndcg > best.valid_ndcg:
                best = TrainedNetwork(copy.deepcopy(network), action, reading, valid_ndcg, f"step {step}, {name}")
    assert best is not None
    return best


def _evaluate(network: Network, data: GateData, action: Action) -> tuple[int, float, str]:
    """Returns the reading of the network as it is that is best on validation windows, its NDCG there and its name."""
    with torch.inference_mode():
        weights, names = read(network(data.numbers[1]), action)
        scores = data.valid_ndcg(weights)
        place = int(scores.argmax())
    return place, float(scores[place]), names[place]


def _train(network: Network, data: GateData, action: Action) -> Iterator[int]:
    """Trains in place and gives the number of steps behind it at every evaluation, 0 first.

    A step is one batch of windows with fresh samples. Windows in which no recaller lists a target teach nothing and are left out.
    """
    yield 0
    rows = data.teaching
    steps = min(MAX_STEPS, -(-EPOCHS * len(rows) // BATCH))
    reward = training_reward(data.train, data.reward, data.reward_k)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    generator = torch.Generator().manual_seed(data.seed)
    order = torch.cat([rows[torch.randperm(len(rows))] for _ in range(EPOCHS)]) if len(rows) else rows
    every = max(1, steps // EVALUATIONS)
    for step in range(1, steps + 1):
        index = order[(step - 1) * BATCH : step * BATCH]
        numbers = data.numbers[0][index]
        old = network(numbers).detach()
        weights, loss = (
            _draw_dirichlet(old)
            if action == "dirichlet"
            else _draw_grpo(old, action, network.start, data.noise_scale, generator)
        )
        advantages = group_advantages(reward(weights, {"index": index}), "batch")
        for _ in range(1 if action == "dirichlet" else ITERATIONS):
            optimizer.zero_grad()
            loss(network(numbers), advantages).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if step % every == 0 or step == steps:
            yield step
