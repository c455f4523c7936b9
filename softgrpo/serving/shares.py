"""The scoring of users by several workers: each scores every n-th batch, and their files are put together in the order of one.

A batch holds the users that it would hold if one process scored all of them, so every number is the same, and so is the file.
Legend: P parts (readings of the files), N shares of a part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from softgrpo.errors import StoreError
from softgrpo.serving.recommended import RequestWriter, rows_of, rows_schema
from softgrpo.serving.scoring import PartOfUsers, ScoringSummary
from softgrpo.serving.served_run import ServedRun

NOTES = b"softgrpo.share"


@dataclass(frozen=True)
class Share:
    """Which batches a worker scores.

    Attributes:
        part: Number of the part, from 0.
        parts: P.
        index: Number of the first batch, from 0 to count - 1.
        count: N; every N-th batch from there on is of this share.
    """

    part: int
    parts: int
    index: int
    count: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.part}-of-{self.parts}-{self.index}-of-{self.count}.parquet"


def share_bytes(run: ServedRun, part: PartOfUsers, k: int, share: Share, suffix: str, job: str) -> bytes:
    """Scores a share and returns its file: a row group for each batch, and what there is to say of each.

    Args:
        run: Who answers.
        part: The users of the share's part.
        k: Length of the lists.
        share: Which of their batches are scored.
        suffix: Ending of the file that the shares will make, `.parquet` or `.json`.
        job: Names the job that it is a share of.

    Raises:
        SoftGRPOError: A list is missing.
    """
    schema, sink, said = rows_schema(suffix, run.config.recall.recallers), pa.BufferOutputStream(), []
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
        for batch, summary in part.score(run, k, share.index, share.count):
            rows = rows_of(batch, suffix)
            writer.write_table(rows, row_group_size=len(rows))
            said.append(vars(summary))
        notes = {"job": job, "unordered": part.histories.unordered, "said": said}
        writer.add_key_value_metadata({NOTES: json.dumps(notes)})
    made: bytes = sink.getvalue().to_pybytes()
    return made


def is_whole(path: Path, job: str) -> bool:
    """Tells whether a file is a whole share of a job; its pages are looked at when it is put together with the others."""
    try:
        with pq.ParquetFile(path) as file:
            return bool(_notes(file)["job"] == job)
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return False


def _notes(file: pq.ParquetFile) -> dict[str, object]:
    notes: dict[str, object] = json.loads(file.metadata.metadata[NOTES])
    return notes


def join_shares(shares: Mapping[Share, Path], writer: RequestWriter, summary: ScoringSummary) -> None:
    """Writes the batches of all shares in the order of one process.

    Args:
        shares: The files of all shares of all parts.
        writer: Of the file that they make.
        summary: Counts what there is to say.

    Raises:
        StoreError: A file is damaged.
    """
    for part in sorted({share.part for share in shares}):
        paths = [path for share, path in sorted(shares.items(), key=_place) if share.part == part]
        for rows, said in _batches(paths, summary):
            writer.write_rows(rows)
            summary.join(said)


def _place(entry: tuple[Share, Path]) -> tuple[int, int]:
    return entry[0].part, entry[0].index


def _batches(paths: Sequence[Path], summary: ScoringSummary) -> Iterator[tuple[pa.Table, ScoringSummary]]:
    """Gives the batches of one part by turns from the files of its shares; counts what was out of order in it."""
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(pq.ParquetFile(path, page_checksum_verification=True)) for path in paths]
            notes = [_notes(file) for file in files]
            summary.unordered += int(str(notes[0]["unordered"]))
            for number in range(sum(file.num_row_groups for file in files)):
                turn, place = number % len(files), number // len(files)
                said = notes[turn]["said"]
                assert isinstance(said, list)
                yield files[turn].read_row_group(place).combine_chunks(), ScoringSummary.of(said[place])
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"'{paths[0].parent}': {error}",
            "The shares of a job are whole when they are put together",
            "Remove the folder and run the same command again",
            code="STORE-048",
        ) from error
