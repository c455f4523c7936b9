"""What the search for a merge and for static weights found, in the files of the stage `data`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from softgrpo.baselines.merge_search import MergeSearch, TriedMerge
from softgrpo.baselines.static_mixture import Candidate, StaticMixture
from softgrpo.common.artifacts import MERGES, STATIC
from softgrpo.config import FusionConfig


def save_static(folder: Path, static: StaticMixture) -> None:
    """Writes the outcome of the search for the best static mixture."""
    (folder / STATIC).write_text(json.dumps(asdict(static), indent=2), encoding="utf-8")


def load_static(folder: Path) -> StaticMixture:
    """Reads what `save_static` wrote."""
    return StaticMixture.of(json.loads((folder / STATIC).read_text(encoding="utf-8")))


def save_merges(folder: Path, search: MergeSearch) -> None:
    """Writes the merges that were tried and which one was chosen, and the outcomes of the search for static weights under it."""
    tried = [
        {
            "fusion": each.fusion.model_dump(exclude=each.fusion.idle),
            "best": asdict(each.best),
            "chosen": each.fusion == search.chosen,
        }
        for each in search.tried
    ]
    if search.unbounded is not None:  # beside the chosen merge, which it belongs to
        next(each for each in tried if each["chosen"])["unbounded"] = asdict(search.unbounded)
    (folder / MERGES).write_text(json.dumps(tried, indent=2), encoding="utf-8")
    save_static(folder, search.static)


def load_merges(folder: Path) -> MergeSearch:
    """Reads what `save_merges` wrote."""
    stored = json.loads((folder / MERGES).read_text(encoding="utf-8"))
    tried = tuple(
        TriedMerge(FusionConfig.model_validate(each["fusion"]), Candidate.of(each["best"])) for each in stored
    )
    chosen = next(merge.fusion for merge, each in zip(tried, stored, strict=True) if each["chosen"])
    unbounded = next((Candidate.of(each["unbounded"]) for each in stored if "unbounded" in each), None)
    return MergeSearch(tried, chosen, load_static(folder), unbounded)
