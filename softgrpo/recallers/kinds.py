"""How RecBole's models are trained: known by name, so that costs can be told without importing RecBole."""

from __future__ import annotations

from typing import Literal

from softgrpo.errors import RecallerError, nearest
from softgrpo.recallers.registry import known_recallers

Kind = Literal["computed", "users", "graph", "pairs", "sequences"]
"""computed: worked out at once, in no epochs; users: batches of users, each with all that a user took; graph: batches of
interactions, each of which goes through the graph of all interactions; pairs: batches of interactions; sequences: batches of
positions, each with the items before it."""

COMPUTED = frozenset({"ADMMSLIM", "AsymKNN", "EASE", "ItemKNN", "Pop", "SLIMElastic"})
USERS = frozenset({"CDAE", "DiffRec", "LDiffRec", "MacridVAE", "MultiDAE", "MultiVAE", "RecVAE", "ENMF"})
GRAPH = frozenset({"DGCF", "GCMC", "LightGCN", "NGCF", "SGL", "SpectralCF"})


def kind_of(name: str) -> Kind:
    """Returns how a RecBole model is trained.

    Args:
        name: One of `known_recallers()`.

    Raises:
        RecallerError: There is no such model.
    """
    known = known_recallers()
    if name not in known:
        raise RecallerError(
            f"Recaller '{name}'",
            "A recaller is a general or sequential RecBole model, by name",
            nearest(name, known),
            code="RECALLER-001",
        )
    if name in COMPUTED:
        return "computed"
    if name in USERS:
        return "users"
    if name in GRAPH:
        return "graph"
    return "sequences" if known[name] == "sequential" else "pairs"
