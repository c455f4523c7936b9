"""How much the gradient of one forward pass varies, by how the noise of its samples is drawn; prints a Markdown table.

A forward pass serves all G samples of its prompts, so only the noise is drawn again. The gradient is that of a linear head on
random features of the prompts of `learning_problem`, so that it shows what prompts add up to. Its variance is summed over the
parameters and divided by the squared length of its mean; numbers are relative to independent noise of the same G, so that less than
1 is better.

independent: as published. antithetic: pairs of uniform numbers u and 1 - u. common: the same noise for all prompts. quasi: a
scrambled Sobol' sequence for each prompt. Run `python examples/noise_variance.py`; it takes about 10 seconds of a CPU.
Legend: B prompts, G samples, M classes, F features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from learning_problem import FUSION, Problem
from torch import Tensor

from softgrpo.algorithm.noise import row_noise
from softgrpo.algorithm.soft_grpo import group_advantages, log_density, sample
from softgrpo.ranking.rewards import RankingReward

MIXTURE = (0.6, 0.2, 0.2)
GENERATIONS, SCALES, FEATURES, PASSES = (4, 16, 64), (1.0, 0.25), 8, 80


def antithetic(rows: Tensor, shape: tuple[int, int], draw: int) -> Tensor:
    """Returns noise (B, G, M) in pairs: `-log(-log u)` beside `-log(-log(1 - u))`."""
    first = row_noise(rows, (shape[0] // 2, shape[1]), draw, 0).double()
    uniform = torch.exp(-torch.exp(-first))
    return torch.cat([first, -torch.log(-torch.log1p(-uniform))], dim=1).float()


DRAWS: dict[str, Callable[[Tensor, tuple[int, int], int], Tensor]] = {
    "independent": lambda rows, shape, draw: row_noise(rows, shape, draw, 0),
    "antithetic": antithetic,
    "common": lambda rows, shape, draw: row_noise(rows[:1], shape, draw, 0).expand(len(rows), -1, -1),
    "quasi": lambda rows, shape, draw: row_noise(rows, shape, draw, 0, "quasi"),
}


class Measurement:
    """Prompts, a policy and a reward, of which gradients are taken."""

    def __init__(self) -> None:
        judged = Problem.make(MIXTURE).judged
        generator = torch.Generator().manual_seed(0)
        self.reward = RankingReward(judged.aligned, judged.targets, FUSION)
        self.rows = torch.arange(len(judged))
        self.logits = torch.tensor([0.4, 0.3, 0.3]).log() + 0.3 * torch.randn(len(judged), 3, generator=generator)
        self.features = torch.randn(len(judged), FEATURES, generator=generator)

    def gradient(self, noise: Tensor, scale: float) -> Tensor:
        """Returns the gradient of the mean over prompts with respect to the head (M, F + 1), flat, float64; noise (B, G, M)."""
        logits = self.logits.clone().requires_grad_()
        drawn = sample(self.logits, noise, 1.0, 1.0, "noise", scale)
        advantages = group_advantages(self.reward(drawn.weights, {"index": self.rows}))
        density = log_density(logits, drawn.perturbed, drawn.support, 1.0, "noise", scale)
        (gradient,) = torch.autograd.grad((density * advantages).mean(), logits)
        inputs = torch.nn.functional.pad(self.features, (0, 1), value=1.0)
        return (gradient.T @ inputs).flatten().double()

    def variance(self, kind: str, generations: int, scale: float) -> float:
        """Returns the variance of the gradient over the squared length of its mean, without the chance in that mean."""
        noises = (DRAWS[kind](self.rows, (generations, 3), draw) for draw in range(PASSES))
        gradients = torch.stack([self.gradient(noise, scale) for noise in noises])
        variance = gradients.var(0).sum()
        return (variance / (gradients.mean(0).square().sum() - variance / PASSES)).item()


def main() -> None:
    """Prints the table."""
    measurement = Measurement()
    kinds = [kind for kind in DRAWS if kind != "independent"]
    print(f"| noise scale s | G | {' | '.join(kinds)} |\n|---|---|{'---|' * len(kinds)}")
    for scale in SCALES:
        for generations in GENERATIONS:
            plain = measurement.variance("independent", generations, scale)
            found = (measurement.variance(kind, generations, scale) / plain for kind in kinds)
            print(f"| {scale:g} | {generations} | {' | '.join(f'{each:.2f}' for each in found)} |", flush=True)


if __name__ == "__main__":
    main()
