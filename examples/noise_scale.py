"""What the noise scale s does to the optimum that SofT-GRPO learns towards, on a problem with a known one.

SofT-GRPO raises the mean reward of samples `softmax(log p + s * noise)`, and people use `p = softmax(z)`. Prints two Markdown
tables of shares of the optimum in percent. The first needs no training: on a grid over the simplex it finds the p whose samples
earn most, and says what that p itself earns. The second trains. Run `python examples/noise_scale.py`; it takes about 15 seconds of
a CPU.
Legend: C contexts, N points of the grid, M recallers, S draws of noise.
"""

from __future__ import annotations

import torch
from learning_curves import spread
from learning_problem import WINDOWS, Problem, learn, simplex
from torch import Tensor

from softgrpo.algorithm.noise import gumbel_noise

MIXTURE = (0.6, 0.2, 0.2)
"""The hidden mixtures are its permutations: three contexts."""
SCALES = (2.0, 1.0, 0.5, 0.25, 0.1)
STEPS, DRAWS = 40, 1000
SEEDS, EPOCHS = 3, (40, 120)


def grid_rewards(problem: Problem, grid: Tensor) -> Tensor:
    """Returns the mean NDCG of each point of a grid (N, M) in each context, (C, N)."""
    return problem.judged.ndcg(grid).view(len(problem.mixtures), WINDOWS, -1).mean(1)


def nearest(weights: Tensor, steps: int) -> Tensor:
    """Returns which row of `simplex(steps, 3)` is next to each of some weights (..., 3)."""
    rows = torch.zeros(steps + 1, steps + 1, dtype=torch.long)
    units = (simplex(steps, 3) * steps).round().long()
    rows[units[:, 0], units[:, 1]] = torch.arange(len(units))
    first = (weights[..., 0] * steps).round().long()
    second = (weights[..., 1] * steps).round().long()
    return rows[first, torch.minimum(second, steps - first)]


def share_where_samples_earn_most(problem: Problem, scale: float, steps: int = STEPS, draws: int = DRAWS) -> float:
    """Returns what softmax(z) earns, as a share of the optimum, at the z whose samples earn most; mean over contexts.

    Args:
        problem: Of three recallers.
        scale: Noise scale s.
        steps: Weights are multiples of `1 / steps`.
        draws: Draws of noise, the same for every z.
    """
    grid = simplex(steps, 3)
    rewards = grid_rewards(problem, grid)  # (C, N)
    inside = (grid > 0).all(1)
    noise = gumbel_noise((draws, 3), torch.Generator().manual_seed(0))
    samples = (grid[inside].log()[:, None] + scale * noise).softmax(-1)  # (N, S, M)
    earned = rewards[:, nearest(samples, steps)].mean(-1)  # (C, N)
    best = rewards[:, inside].gather(1, earned.argmax(1, keepdim=True))
    return (best[:, 0] / rewards.amax(1)).mean().item()


def trained(problem: Problem, scale: float, epochs: int) -> str:
    """Returns mean and range over seeds of the share of the optimum that softmax(z) reaches."""
    runs = (learn(problem, seed, noise_scale=scale, top_p=1.0, num_train_epochs=epochs) for seed in range(SEEDS))
    return spread([run.end["softmax(z)"] for run in runs])


def main() -> None:
    """Prints both tables."""
    problem = Problem.make(MIXTURE)
    print("| noise scale s | softmax(z) where its samples earn most, % |\n|---|---|")
    for scale in SCALES:
        print(f"| {scale:g} | {100 * share_where_samples_earn_most(problem, scale):.1f} |")
    heads = " | ".join(f"trained, {epochs} epochs, %" for epochs in EPOCHS)
    print(f"\n| noise scale s | {heads} |\n|---|{'---|' * len(EPOCHS)}")
    for scale in (1.0, 0.25):
        print(f"| {scale:g} | {' | '.join(trained(problem, scale, epochs) for epochs in EPOCHS)} |", flush=True)
    print(f"\nBest static mixture: {100 * problem.static / problem.optimum:.1f} % of the optimum.")


if __name__ == "__main__":
    main()
