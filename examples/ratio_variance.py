"""The variance of the gradient in both ratio forms, measured; prints a Markdown table. Run `python examples/ratio_variance.py`.

The gradient of one sample with respect to the logits is (R - mean R) times the gradient of its log density, with the linear reward
R = w_1. Its variance is summed over the logits. Legend: M classes, N samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from softgrpo.algorithm.noise import gumbel_noise
from softgrpo.algorithm.soft_grpo import ImportanceRatio, log_density, sample

SAMPLES, BLOCKS = 200_000, 20
FORMS: tuple[ImportanceRatio, ...] = ("noise", "concrete")
CASES: tuple[tuple[str, tuple[float, ...], float], ...] = (
    ("M = 2, uniform", (0.5, 0.5), 0.5),
    ("M = 2, uniform", (0.5, 0.5), 1.0),
    ("M = 3, uniform", (1 / 3, 1 / 3, 1 / 3), 1.0),
    ("M = 3, skewed (0.6, 0.3, 0.1)", (0.6, 0.3, 0.1), 0.5),
    ("M = 3, skewed (0.6, 0.3, 0.1)", (0.6, 0.3, 0.1), 1.0),
    ("M = 6, uniform", (1 / 6,) * 6, 1.0),
    ("M = 6, skewed (0.5, 0.2, 0.1, 0.1, 0.05, 0.05)", (0.5, 0.2, 0.1, 0.1, 0.05, 0.05), 1.0),
)


def gradients(probabilities: tuple[float, ...], tau: float, seed: int) -> dict[ImportanceRatio, Tensor]:
    """Returns the gradients of the same N samples in both forms, (N, M) float64 each."""
    logits = torch.tensor(probabilities).log().expand(SAMPLES, -1).clone().requires_grad_()  # a row per sample
    noise = gumbel_noise((SAMPLES, 1, len(probabilities)), torch.Generator().manual_seed(seed))
    drawn = sample(logits.detach(), noise, tau, top_p=1.0)
    rewards = drawn.weights[:, 0, :1].double()
    result: dict[ImportanceRatio, Tensor] = {}
    for form in FORMS:
        density = log_density(logits, drawn.perturbed, drawn.support, tau, form)
        (score,) = torch.autograd.grad(density.sum(), logits)
        result[form] = (rewards - rewards.mean()) * score.double()
    return result


def variance_ratio(of: dict[ImportanceRatio, Tensor]) -> float:
    """Returns the variance of `concrete` over that of `noise`."""
    noise, concrete = (of[form].var(0).sum() for form in FORMS)
    return (concrete / noise).item()


def main() -> None:
    """Prints the table."""
    print("| classes | tau | concrete / noise | standard error | largest difference of the mean gradients |")
    print("|---|---|---|---|---|")
    for name, probabilities, tau in CASES:
        found = gradients(probabilities, tau, seed=0)
        blocks = zip(*(found[form].chunk(BLOCKS) for form in FORMS), strict=True)
        ratios = torch.tensor([variance_ratio(dict(zip(FORMS, block, strict=True))) for block in blocks])
        error = ratios.std() / math.sqrt(BLOCKS)
        difference = (found["noise"] - found["concrete"]).mean(0).abs().max()
        print(f"| {name} | {tau:g} | {variance_ratio(found):.3f} | {error:.3f} | {difference:.4f} |")


if __name__ == "__main__":
    main()
