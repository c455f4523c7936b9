"""The pieces of the stage `data`: lists and what follows from them alone, numbers, prompts. Legend: w windows of a piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softgrpo.policy.blocks.block import Known
from softgrpo.policy.features import Features, ListNumbers
from softgrpo.policy.numbers import WindowNumbers, name_and_compute
from softgrpo.policy.prompt_files import NO_PROMPT, prompts_table
from softgrpo.policy.prompts import PromptFormatter
from softgrpo.recallers.candidates import BLOCK
from softgrpo.stages.opened import Opened
from softgrpo.stages.pieces import Arrays, Piece, PieceMaker, array_text, cut, text_array
from softgrpo.stages.user_vectors import read_vectors
from softgrpo.stages.views import rows_of_features


def pieces_of(opened: Opened, features: Features | None = None) -> Iterator[Piece]:
    """Gives the pieces of all windows, view by view.

    Args:
        opened: The windows.
        features: Of all windows, where the pieces are given theirs.
    """
    for view in opened.views:
        first = view.rows.start
        for piece in cut(first, first + len(view.windows), BLOCK):
            yield piece if features is None else Piece(piece.rows, vars(rows_of_features(features, piece.rows)))


def open_lists(opened: Opened, common: Arrays) -> PieceMaker:
    """Opens what lists are pooled from: `items` and `scores` (w, M, D), and `ListNumbers`."""

    def make(piece: Piece) -> Arrays:
        lists = opened.pooled(piece.rows)
        own = ListNumbers.of(lists, opened.targets[piece.rows], opened.config.fusion.k)
        return {"items": lists.items, "scores": lists.scores, **vars(own)}

    return make


def open_numbers(opened: Opened, common: Arrays) -> PieceMaker:
    """Opens what numbers are made of: `names` as JSON and `values` (w, F); pieces are given their features."""
    vectors = read_vectors(common, opened.config, opened.recallers) if common else None

    def make(piece: Piece) -> Arrays:
        known = Known(
            opened.corpus,
            opened.windows_at(piece.rows),
            opened.lists_at(piece.rows),
            Features(**piece.given),
            opened.embeddings,
            vectors,
            popularity=opened.popularity[opened.view(piece.rows).fold],
            seconds=opened.seconds,
        )
        names, values = name_and_compute(known, opened.config.told_features)
        return {"names": text_array(json.dumps(names)), "values": values}

    return make


def of_numbers(numbers: WindowNumbers) -> Arrays:
    """Returns what all pieces of prompts must know of the numbers."""
    return {"names": text_array(json.dumps(numbers.names)), "cuts": numbers.cuts}


def open_prompts(opened: Opened, common: Arrays) -> PieceMaker:
    """Opens what prompts are made of: a `table` of them; pieces are given their features and, as `values`, their numbers."""
    names, cuts = tuple(json.loads(array_text(common["names"]))), common["cuts"]

    def make(piece: Piece) -> Arrays:
        formatter = PromptFormatter(
            opened.config.told_prompt,
            opened.corpus,
            opened.windows_at(piece.rows),
            opened.lists_at(piece.rows),
            Features(**{field.name: piece.given[field.name] for field in fields(Features)}),
            WindowNumbers(names, piece.given["values"], cuts),
            opened.catalogue,
        )
        prompted = opened.prompted[piece.rows].tolist()
        prompts = [formatter.parts(row) if has else NO_PROMPT for row, has in enumerate(prompted)]
        return {"table": table_array(prompts_table(prompts))}

    return make


def table_array(table: pa.Table) -> NDArray[np.uint8]:
    """Returns a table as an array of bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return np.frombuffer(sink.getvalue(), dtype=np.uint8)


def array_table(array: NDArray[np.uint8]) -> pa.Table:
    """Returns the table of `table_array`."""
    return pa.ipc.open_stream(pa.py_buffer(array)).read_all()
