"""The noise that samples are made of: Gumbel noise of a row, independent or evenly spread, and its scale over a training.

Legend: B prompts, G generations per prompt, M recallers.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

NoiseKind = Literal["independent", "quasi"]


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Returns independent standard Gumbel noise, float32 on the generator's device.

    `-log(E)` with E ~ Exponential(1); float64 inside, so that neither tail is cut by float32's steps near 1.
    """
    return _gumbel(torch.empty(shape, dtype=torch.float64, device=generator.device).exponential_(generator=generator))


def _gumbel(exponential: Tensor) -> Tensor:
    return -exponential.clamp_min(torch.finfo(torch.float64).tiny).log().float()


def spread_noise(shape: tuple[int, int], seed: int) -> Tensor:
    """Returns Gumbel noise (G, M) float32 that fills the space more evenly than independent draws, by a scrambled Sobol' sequence.

    Each of the G points alone has the law of `gumbel_noise`; together they are not independent. Owen (1998), "Scrambling Sobol' and
    Niederreiter-Xing points", doi:10.1006/jcom.1998.0487, as torch does it.

    Args:
        shape: (G, M).
        seed: Of the scrambling.
    """
    engine = SobolEngine(shape[1], scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    points = engine.draw(shape[0], dtype=torch.float64)
    below = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    uniform = points + below * 2.0**-SobolEngine.MAXBIT  # a point has so many bits; chance fills the others
    return _gumbel(-uniform.clamp_min(torch.finfo(torch.float64).tiny).log())


def row_noise(
    rows: Tensor, shape: tuple[int, int], seed: int, generation: int, kind: NoiseKind = "independent"
) -> Tensor:
    """Returns noise that depends on (seed, generation, row) only: not on batches, processes or resuming.

    Args:
        rows: (B,) row numbers.
        shape: (G, M).
        seed: Of the run.
        generation: Counts the sets of samples.
        kind: Of the G samples of one row; different rows are independent in any case.

    Returns:
        (B, G, M) float32 standard Gumbel noise, where `rows` are.
    """
    noise = []
    for row in rows.tolist():
        state = np.random.SeedSequence([seed, generation, row]).generate_state(1, np.uint64)
        own = int(state[0] >> np.uint64(1))
        independent = kind == "independent"
        noise.append(
            gumbel_noise(shape, torch.Generator().manual_seed(own)) if independent else spread_noise(shape, own)
        )
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
