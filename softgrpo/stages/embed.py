"""Stage `embed`: embed the text of every item, each different text once, in pieces that survive a crash.

Legend: I items, T different texts, d numbers of an embedding.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.common.artifacts import EMBEDDINGS
from softgrpo.common.embeddings import create_embeddings
from softgrpo.common.files import written_whole
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import load_corpus
from softgrpo.data.item_texts import few_texts_note, item_texts
from softgrpo.policy.text_encoder import TextEncoder
from softgrpo.reporting import ProgressBar
from softgrpo.stages.contract import StageContext

PIECE = 1024
"""Texts that are embedded between two pieces on the disk."""


def run(context: StageContext) -> dict[str, float]:
    config = context.config
    texts = item_texts(config.data, config.text, load_corpus(context.inputs["split"]).items)
    if note := few_texts_note(texts):
        context.reporter.info(note)
    encoder = encoder_of(config)
    different, place = different_texts(texts)
    started = time.perf_counter()
    width = write_embeddings(context.out / EMBEDDINGS, place, pieces(encoder, different, context.work))
    speed = len(different) / (time.perf_counter() - started)
    context.reporter.info(
        f"{len(texts):,} items with {len(different):,} different texts, {speed:,.0f} texts per second"
    )
    (context.out / "example_text.txt").write_text(next(filter(None, texts)), encoding="utf-8")
    return {
        "items_with_a_text": float((place >= 0).sum()),
        "different_texts": float(len(different)),
        "embedding_width": float(width),
    }


def encoder_of(config: ExperimentConfig) -> TextEncoder:
    """Returns the encoder of item texts, on the device of the settings."""
    on_cuda = config.train.device != "cpu" and torch.cuda.is_available()
    return TextEncoder.load(config.text, torch.device("cuda" if on_cuda else "cpu"))


def different_texts(texts: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Returns every different text once, and which of them each item has.

    Args:
        texts: I texts, "" where an item has none.

    Returns:
        T texts, the longest first: texts of about one length fill a batch well, and a memory that is too small shows at once.
        Then (I,) numbers of texts, -1 where an item has none.
    """
    different = sorted(set(texts) - {""}, key=lambda text: (-len(text), text))
    numbers = {text: number for number, text in enumerate(different)}
    return different, np.array([numbers.get(text, -1) for text in texts], dtype=np.int64)


def pieces(encoder: TextEncoder, different: Sequence[str], work: Path) -> Iterator[NDArray[np.float32]]:
    """Gives the embeddings of texts, (n, d) at a time; those that an earlier try left on the disk are not made again.

    Args:
        encoder: Embeds texts.
        different: T texts, at least one.
        work: Keeps the pieces.
    """
    with ProgressBar(total=len(different), desc="item texts", unit="text", mininterval=0.5) as bar:
        for first in range(0, len(different), PIECE):
            texts = different[first : first + PIECE]
            path = work / f"texts-{first // PIECE:06d}.npy"
            vectors = _read_piece(path)
            if vectors is None:
                vectors = encoder.embed(texts)
                with written_whole(path) as aside:
                    np.save(aside, vectors)
            yield vectors
            bar.update(len(texts))


def _read_piece(path: Path) -> NDArray[np.float32] | None:
    """Returns the embeddings that an earlier try left, None where it left none or not all bytes reached the disk."""
    try:
        stored: NDArray[np.float32] = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return stored


def write_embeddings(path: Path, place: NDArray[np.int64], parts: Iterator[NDArray[np.float32]]) -> int:
    """Writes the embeddings of all items, without ever holding them all.

    Args:
        path: The file.
        place: (I,) the number of each item's text, -1 where it has none.
        parts: Embeddings of the T texts in their order, (n, d) at a time, at least one.

    Returns:
        d.
    """
    items = np.argsort(place, kind="stable")  # by their texts
    sorted_place = place[items]
    file: NDArray[np.float32] | None = None
    first = 0
    for vectors in parts:
        if file is None:
            file = create_embeddings(path, len(place), vectors.shape[1])
        start, end = np.searchsorted(sorted_place, (first, first + len(vectors)))
        file[items[start:end]] = vectors[sorted_place[start:end] - first]
        first += len(vectors)
    assert file is not None, "at least one item has a text"
    return int(file.shape[1])
