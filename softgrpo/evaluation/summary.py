"""What a finished run showed, in a few sentences; the terminal, Prefect's page, MLflow's page and the report all say the same.

It needs no torch, so that a run of which all is stored shows it at once.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from softgrpo.common.artifacts import SUMMARY

FOCUS = "grpo_multi"
"""Key of the method that runs are compared by, and whose weights and cases a report shows."""


@dataclass(frozen=True)
class Summary:
    """The result of a run in words.

    Attributes:
        k: Cut-off of the NDCG that methods are compared by.
        focus: Key of the row that the verdicts are about, e.g. `grpo_multi`.
        best_single: Key of the best single recaller, chosen on validation windows.
        best_static: Key of the best static mixture.
        verdicts: One sentence against the best single recaller, one against the best static mixture.
        learnt: What training changed: how the weights differ between users, or that they do not; "" where it is not known.
        best_method: Key of the method that validation windows choose, see `softgrpo.evaluation.chosen`; "" likewise.
        chosen: That choice in a sentence; "" likewise.
    """

    k: int
    focus: str
    best_single: str
    best_static: str
    verdicts: tuple[str, ...]
    learnt: str
    best_method: str = ""
    chosen: str = ""

    @property
    def sentences(self) -> tuple[str, ...]:
        """All that is to be said, in order."""
        return tuple(sentence for sentence in (*self.verdicts, self.learnt, self.chosen) if sentence)


def write_summary(folder: Path, summary: Summary) -> None:
    """Writes `summary.json`."""
    (folder / SUMMARY).write_text(json.dumps(asdict(summary), indent=1), encoding="utf-8")


def read_summary(folder: Path) -> Summary | None:
    """Reads what `write_summary` wrote.

    Args:
        folder: Payload of the stage `test`.

    Returns:
        None where an earlier version of this package made the folder, without such a file.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    return Summary(**{**stored, "verdicts": tuple(stored["verdicts"])})
