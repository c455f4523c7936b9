"""A finished run in five lines of Python: who took these items gets those, and why.

    from softgrpo.flows.results.finished import open_stored
    from softgrpo import Router

    router = Router.load(open_stored("RUN", "outputs"))
    print(router.recommend(["50", "181", "174"]))

Nothing is trained and nothing is written. Items and users are named as in the run's data set. Legend: n items of a history.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.config import ExperimentConfig
from softgrpo.errors import CandidateError, DataError, nearest
from softgrpo.evaluation.chosen import BEST
from softgrpo.serving.recommended import as_records
from softgrpo.serving.served_run import GivenLists, ServedRun


class StoredRun(Protocol):
    """A finished run: what `softgrpo.flows.results.finished.open_stored` gives, or a standalone run's folders with its settings."""

    @property
    def config(self) -> ExperimentConfig:
        """The resolved settings."""

    @property
    def folders(self) -> Mapping[str, Path]:
        """The folder of each stage, by the name of its node."""


@dataclass(frozen=True)
class Router:
    """A run that can be asked.

    Attributes:
        run: What answers.
        work: Holds what an adapter of `Text` made of the embeddings, as long as the router is there.
    """

    run: ServedRun
    work: tempfile.TemporaryDirectory[str]

    @classmethod
    def load(cls, run: StoredRun, method: str = BEST, item_fields: Path | None = None) -> Router:
        """Opens the recallers of a run, and one of its methods.

        Args:
            run: A finished run.
            method: Key of a row of its table, such as `static`, `gate_network`, `ranker` or `grpo_multi`; `best` takes the one that
                validation windows chose.
            item_fields: A file of items with their texts, as the data set's own; `Text` can recommend those that the run does not
                know.

        Raises:
            SoftGRPOError: The run stored no such method, or something of it is damaged; or it is the name of one; or the file
                lacks something, or the run has no `Text`.
        """
        if isinstance(run, str):
            raise DataError(
                f"Router.load({run!r})",
                "It takes an opened run",
                "Write Router.load(open_stored(RUN, OUTPUT)), with flows.results.finished.open_stored",
                code="DATA-050",
            )
        work = tempfile.TemporaryDirectory()
        return cls(ServedRun.open(run.config, run.folders, method, Path(work.name), item_fields=item_fields), work)

    def recommend(
        self,
        history: Sequence[str],
        *,
        user: str = "",
        times: Sequence[float] | None = None,
        k: int | None = None,
        lists: Mapping[str, Sequence[tuple[str, float]]] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Recommends to one user.

        Args:
            history: Names of the items, oldest first. Those that the run does not know are left out, and counted in the answer.
            user: Name; with "" and every other name that the run does not know it is a new user, to whom recallers with something
                of each user, such as BPR, give nothing.
            times: Of the items, in the unit of the run's data; None where they are unknown.
            k: Length of the list; None takes the run's `fusion.k`.
            lists: Items with their scores, best first, by the recaller that they are of; they take the place of its own list.
            fields: What is known of the user, by the run's names of fields, such as age; it goes before what the run knows.

        Returns:
            The record of `softgrpo score`: user, source of the weights, reason, recallers without a list, unknown_items, weights,
            and items with rank, title, score and what each recaller gave.

        Raises:
            DataError: There are more or fewer times than items, or the run knows no such field.
            SoftGRPOError: A list is missing, or K is too large.
        """
        items, moments, strange = self._numbered(history, times)
        answer = self.run.recommend(
            [user],
            [items],
            moments,
            self.run.config.fusion.k if k is None else k,
            self._lists(lists or {}, items),
            np.array([strange]),
            self._fields(fields),
        )
        return next(as_records(answer))

    def prompt(
        self,
        history: Sequence[str],
        *,
        user: str = "",
        times: Sequence[float] | None = None,
        lists: Mapping[str, Sequence[tuple[str, float]]] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> str:
        """Returns the prompt that a policy of the run reads of a user; arguments and errors as of `recommend`."""
        items, moments, _ = self._numbered(history, times)
        described = self.run.describe([user], [items], moments, self._lists(lists or {}, items), self._fields(fields))
        return described.prompts(self.run.config.told_prompt)[0].text()

    def _numbered(
        self, history: Sequence[str], times: Sequence[float] | None
    ) -> tuple[NDArray[np.int32], list[NDArray[np.float64]] | None, int]:
        """Returns the items that the run knows, each once, their times, and how many it does not know."""
        if times is not None and len(times) != len(history):
            raise DataError(
                f"{len(times)} times for {len(history)} items",
                "Each item of a history has its time",
                "Give as many, or none",
                code="DATA-038",
            )
        _check_names("history", history)
        numbers = self.run.item_index.get_indexer(pd.Index(list(history), dtype=object))
        first = ~pd.Series(numbers).duplicated().to_numpy(bool)
        kept = np.flatnonzero((numbers >= 0) & first)
        moments = None if times is None else _finite("times", times)
        if moments is not None:
            kept = kept[np.argsort(moments[kept], kind="stable")]
        return numbers[kept].astype(np.int32), None if moments is None else [moments[kept]], int((numbers < 0).sum())

    def _fields(self, fields: Mapping[str, str] | None) -> pd.DataFrame | None:
        """Returns what is told of a user as one row."""
        from softgrpo.serving.user_fields import as_text, fields_of

        known = fields_of(self.run.corpus.users)
        for name in fields or {}:
            if name not in known:
                raise DataError(
                    f"field '{name}' of a user",
                    f"The run knows these fields: {', '.join(known) or 'none'}",
                    nearest(name, known),
                    code="DATA-042",
                )
        return pd.DataFrame([{name: as_text(value) for name, value in fields.items()}]) if fields else None

    def _lists(self, lists: Mapping[str, Sequence[tuple[str, float]]], history: NDArray[np.int32]) -> GivenLists:
        """Returns lists by the run's numbers of items."""
        from softgrpo.serving.histories import listed

        config, given = self.run.config, {}
        depth = config.recall.depth
        for name, rows in lists.items():
            if name not in config.recall.recallers:
                known = nearest(name, config.recall.recallers)
                raise CandidateError(
                    f"a list of '{name}'", "The run weighs no such recaller", known, code="CANDIDATE-028"
                )
            pairs = [row if isinstance(row, tuple | list) and len(row) == 2 else (None, None) for row in rows]
            _check_names(f"the list of {name}, which holds pairs of an item and its score", [pair[0] for pair in pairs])
            item = self.run.item_index.get_indexer(pd.Index([pair[0] for pair in pairs], dtype=object))
            score = _finite(f"the scores of {name}", [pair[1] for pair in pairs])
            given[name] = listed(np.zeros(len(rows), np.int64), item, score, [history], len(self.run.item_index), depth)
        return given


def _check_names(what: str, names: Sequence[str]) -> None:
    """Checks that items are given by name.

    Raises:
        DataError: They are one text, or none at all, or one is no text.
    """
    wrong = [name for name in names if not isinstance(name, str)] if _is_list(names) else [names]
    if wrong:
        raise DataError(
            f"{what}: {wrong[0]!r}",
            "Items are a list of names, each a text",
            "Write such as ['50', '181']",
            code="DATA-048",
        )


def _is_list(values: object) -> bool:
    return isinstance(values, Sequence | np.ndarray | pd.Series) and not isinstance(values, str)


def _finite(what: str, values: Sequence[float]) -> NDArray[np.float64]:
    """Returns numbers as an array.

    Raises:
        DataError: One is no finite number.
    """
    wrong = [value for value in values if not (_is_number(value) and np.isfinite(value))]
    if wrong:
        raise DataError(f"{what}: {wrong[0]!r}", "Each is a finite number", "Correct it", code="DATA-049")
    return np.asarray(values, dtype=np.float64)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
