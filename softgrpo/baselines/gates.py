"""The gates without a language model, by name. Legend: M recallers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import get_args

from softgrpo.baselines.boosting import fit_boosting
from softgrpo.baselines.inputs import GateData, GateWeights, check_windows
from softgrpo.baselines.neighbours import fit_neighbours
from softgrpo.baselines.networks import fit_network
from softgrpo.baselines.stacking import fit_stacking
from softgrpo.baselines.static_mixture import SEARCH_FUNCTIONS
from softgrpo.baselines.thirds import fit_thirds
from softgrpo.config import Baseline

GATES: dict[str, tuple[str, Callable[[GateData], GateWeights]]] = {
    "thirds": ("Static mixture per third of history length", fit_thirds),
    "neighbours": ("Nearest neighbours", fit_neighbours),
    "dirichlet": ("Dirichlet policy, network", partial(fit_network, action="dirichlet")),
    "stacking": ("Linear stacking", fit_stacking),
    "boosting": ("Boosted trees", fit_boosting),
    "network": ("SofT-GRPO, network", partial(fit_network, action="soft")),
    "discrete": ("Discrete GRPO, network", partial(fit_network, action="discrete")),
}
"""Name to what people read and what fits it."""
ZERO_SHOT, RANKER = "zero_shot", "ranker"
assert {*GATES, *SEARCH_FUNCTIONS, ZERO_SHOT, RANKER} == set(get_args(Baseline)), (
    "a baseline that nothing makes, or one without a name"
)


def fit_gates(names: Iterable[str], data: GateData) -> dict[str, GateWeights]:
    """Fits the gates among some baselines.

    Args:
        names: As in `evaluation.baselines`; those that are no gates are passed over.
        data: What they are fitted, chosen and asked on.

    Returns:
        What each gate says, by name, in the order of `GATES`.

    Raises:
        DataError: There are no training, no validation or no asked windows.
    """
    named = set(names)
    chosen = {name: fit for name, (_, fit) in GATES.items() if name in named}
    if chosen:
        check_windows(data)
    return {name: fit(data) for name, fit in chosen.items()}
