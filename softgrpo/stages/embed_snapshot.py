"""Stage `embed` for the items of now: new texts are embedded, those of items that the run knew keep their embeddings.

So whatever was learnt on the embeddings, such as an adapter of `Text`, still fits. Legend: T different texts.
"""

from __future__ import annotations

from itertools import chain

import numpy as np

from softgrpo.common.artifacts import EMBEDDINGS
from softgrpo.common.embeddings import load_embeddings
from softgrpo.data.corpus import load_corpus
from softgrpo.data.item_texts import item_texts
from softgrpo.stages.contract import StageContext
from softgrpo.stages.embed import encoder_of, pieces, write_embeddings


def run(context: StageContext) -> dict[str, float]:
    config, inputs = context.config, context.inputs
    before = item_texts(config.data, config.text, load_corpus(inputs["split"]).items)
    texts = item_texts(config.data, config.text, load_corpus(inputs["snapshot"]).items)
    stored = load_embeddings(inputs["embed"] / EMBEDDINGS)
    known = {text: row for row, text in enumerate(before) if text and stored[row].any()}
    different = sorted(set(texts) - {""}, key=lambda text: (text not in known, -len(text), text))
    new = [text for text in different if text not in known]
    numbers = {text: number for number, text in enumerate(different)}
    place = np.array([numbers.get(text, -1) for text in texts], dtype=np.int64)
    kept = np.asarray(stored[[known[text] for text in different[: len(different) - len(new)]]])
    made = pieces(encoder_of(config), new, context.work) if new else iter(())
    width = write_embeddings(context.out / EMBEDDINGS, place, chain([kept], made))
    context.reporter.info(f"{len(texts):,} items, {len(new):,} texts that the run did not know")
    return {
        "items_with_a_text": float((place >= 0).sum()),
        "new_texts": float(len(new)),
        "embedding_width": float(width),
    }
