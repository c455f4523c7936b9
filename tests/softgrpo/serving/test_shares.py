"""Users scored by shares: the file of all shares is that of one process, byte for byte, and no damaged share is taken for whole."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from softgrpo.errors import StoreError
from softgrpo.flows.results.scoring import ScoreOptions, notes_of, open_asked, score_run
from softgrpo.flows.results.shared_scoring import _shares
from softgrpo.serving import scoring
from softgrpo.serving.recommended import RequestWriter
from softgrpo.serving.scoring import PartOfUsers, Summary
from softgrpo.serving.shares import Share, is_whole, join_shares, share_bytes
from tests.softgrpo.serving.test_scoring import files, finished
from tests.softgrpo.stages.tiny_run import RECALLERS, TinyRun

__all__ = ["files"]
JOB = "a job"


def write_shares(run: TinyRun, options: ScoreOptions, suffix: str, count: int, folder: Path) -> dict[Share, Path]:
    """Scores each share as a worker does, and writes its file."""
    paths = {}
    folder.mkdir()
    served, asked = open_asked(finished(run), options, folder)
    for number in range(asked.parts):
        part = PartOfUsers.read(served, asked, number)
        for index in range(count):
            share = Share(number, index, count)
            paths[share] = folder / share.name
            paths[share].write_bytes(share_bytes(served, part, asked.k, share, suffix, JOB))
    return paths


@pytest.mark.parametrize(("suffix", "count"), [(".parquet", 3), (".json", 2), (".parquet", 40)])
def test_shares_make_the_file_of_one_process(
    suffix: str,
    count: int,
    run: TinyRun,
    files: tuple[Path, dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A language model answers, whose numbers depend on who is in its batch; two parts, users without lists, some with notes."""
    monkeypatch.setattr(scoring, "ROWS", 700)
    monkeypatch.setattr(scoring, "BATCH", 5)
    options = ScoreOptions(files[0], files[1], method="grpo_multi", users=[*(f"u{n}" for n in range(30)), "absent"])
    whole = score_run(finished(run), options, tmp_path / f"whole{suffix}")
    paths = write_shares(run, options, suffix, count, tmp_path / "shares")
    assert len({share.part for share in paths}) > 1
    summary, joined = Summary(), tmp_path / f"joined{suffix}"
    with RequestWriter(joined, RECALLERS) as writer:
        join_shares(paths, writer, summary)
    assert joined.read_bytes() == whole.path.read_bytes()
    history = open_asked(finished(run), options, tmp_path)[1].history
    assert notes_of(finished(run), options, summary, history, None) == whole.notes and whole.notes
    assert (summary.users, summary.items) == (whole.users, whole.items)


def test_a_damaged_share_is_not_taken_for_whole(
    run: TinyRun, files: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    paths = write_shares(run, ScoreOptions(*files, method="static"), ".parquet", 2, tmp_path / "shares")
    path = paths[Share(0, 0, 2)]
    good = path.read_bytes()
    assert is_whole(path, JOB) and not is_whole(path, "another job") and not is_whole(tmp_path / "none", JOB)
    for cut in (0, 10, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        assert not is_whole(path, JOB)
    place = pq.ParquetFile(paths[Share(0, 1, 2)]).metadata.num_row_groups
    assert place == 0  # one batch in all: the second share is empty, and whole
    path.write_bytes(good[:300] + bytes([good[300] ^ 0xFF]) + good[301:])  # inside a page, which the end of the file does not tell
    assert is_whole(path, JOB)
    with pytest.raises(StoreError, match=r"shares.* whole when they are put together.*STORE-048"):
        with RequestWriter(tmp_path / "joined.parquet", RECALLERS) as writer:
            join_shares(paths, writer, Summary())
    assert not (tmp_path / "joined.parquet").exists()


def test_shares_are_some_for_each_worker_or_those_of_the_last_attempt(tmp_path: Path) -> None:
    assert len(_shares(1, 1_000_000, 2, tmp_path)) == 8
    assert _shares(3, 1_000_000, 2, tmp_path) == [Share(part, index, 3) for part in range(3) for index in range(3)]
    assert len(_shares(1, 3000, 2, tmp_path)) == 3  # no more than there may be batches
    (tmp_path / Share(0, 3, 5).name).touch()
    assert len(_shares(1, 1_000_000, 2, tmp_path)) == 5
