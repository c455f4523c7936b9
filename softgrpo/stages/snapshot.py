"""Stage `split` of a refit: the data set as it is now, every interaction a training one, for the recallers of a finished run.

It holds what `split` of the run holds, with no windows and no tails held back. Filters are those of the run, which keep all that
they kept before when rows are added; a data set that lost something is refused, because the run's methods and lists need it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from softgrpo.common.columns import Columns
from softgrpo.common.records import Corpus, Windows
from softgrpo.data.corpus import load_corpus, read_corpus, write_corpus
from softgrpo.data.windows import write_windows
from softgrpo.errors import DataError
from softgrpo.stages.contract import StageContext

SHOWN = 3
_REMEDY = "Bring back what is missing, name the right --data-path, or train a new run"


def run(context: StageContext) -> dict[str, float]:
    then, now = load_corpus(context.inputs["split"]), read_corpus(context.config.data, context.config.seed)
    check_grown(then, now)
    write_corpus(context.out, now)
    write_windows(context.out, no_windows(now))
    counts = {"users": now.num_users, "items": now.num_items, "interactions": len(now.item)}
    before = {"users": then.num_users, "items": then.num_items, "interactions": len(then.item)}
    context.reporter.info(", ".join(f"{count:,} {name} (then {before[name]:,})" for name, count in counts.items()))
    new = {f"new_{name}": float(count - before[name]) for name, count in counts.items()}
    return {name: float(count) for name, count in counts.items()} | new


def no_windows(corpus: Corpus) -> Windows:
    """Returns no windows, with training parts that are whole sequences."""
    none = np.empty(0, dtype=np.int32)
    return Windows(none, none.astype(np.int8), none, none, train_end=np.diff(corpus.offsets).astype(np.int32))


def check_grown(then: Corpus, now: Corpus) -> None:
    """Checks that a data set still has all that a run learnt from.

    Args:
        then: What the run read.
        now: What is there.

    Raises:
        DataError: A user, an item, an interaction, all titles or genres, or a field of the users is gone.
    """
    for what, before, after in (("user", then.users, now.users), ("item", then.items, now.items)):
        tokens = before[Columns.Token]
        gone = tokens[~tokens.isin(after[Columns.Token])].tolist()
        if gone:
            raise _shrunk(f"{len(gone):,} of the run's {len(tokens):,} {what}s are gone: {_some(gone)}")
        lost = [
            name for name in map(str, before) if name not in after or (_told(before, name) and not _told(after, name))
        ]
        if lost:
            raise _shrunk(f"what was known of {what}s is gone: {', '.join(lost)}")
    lengths = pd.Series(np.diff(now.offsets), index=now.users[Columns.Token])
    fewer = lengths[then.users[Columns.Token]].to_numpy() < np.diff(then.offsets)
    if fewer.any():
        names = then.users[Columns.Token][fewer].tolist()
        raise _shrunk(f"{len(names):,} users have fewer interactions than in the run: {_some(names)}")


def _told(table: pd.DataFrame, column: str) -> bool:
    """Tells whether anything is known in a column."""
    return bool((table[column] != "").any())


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _shrunk(what: str) -> DataError:
    return DataError(
        f"the data set now: {what}",
        "A refit learns from the data set of its run and what came since",
        _REMEDY,
        code="DATA-040",
    )
