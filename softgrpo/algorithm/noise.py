"""The noise that samples are made of: Gumbel noise of a row, and its scale over a training.

Legend: B prompts, G generations per prompt, M recallers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Returns independent standard Gumbel noise, float32 on the generator's device.

    `-log(E)` with E ~ Exponential(1); float64 inside, so that neither tail is cut by float32's steps near 1.
    """
    exponential = torch.empty(shape, dtype=torch.float64, device=generator.device).exponential_(generator=generator)
    return -exponential.clamp_min(torch.finfo(torch.float64).tiny).log().float()


def row_noise(rows: Tensor, shape: tuple[int, int], seed: int, generation: int) -> Tensor:
    """Returns noise that depends on (seed, generation, row) only: not on batches, processes or resuming.

    Args:
        rows: (B,) row numbers.
        shape: (G, M).
        seed: Of the run.
        generation: Counts the sets of samples.

    Returns:
        (B, G, M) float32 standard Gumbel noise, where `rows` are.
    """
    noise = []
    for row in rows.tolist():
        state = np.random.SeedSequence([seed, generation, row]).generate_state(1, np.uint64)
        noise.append(gumbel_noise(shape, torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))))
    return torch.stack(noise).to(rows.device)


def scale_of_draw(start: float, end: float | None, draw: int, draws: int) -> float:
    """Returns the noise scale of one of `draws` sets of samples: on a line from `start`, of the first, to `end`, of the last.

    Args:
        start: Of the first set.
        end: Of the last set; None stays at `start`.
        draw: Number of the set, from 0.
        draws: Sets of the whole training.
    """
    return start if end is None else start + (end - start) * draw / max(1, draws - 1)
