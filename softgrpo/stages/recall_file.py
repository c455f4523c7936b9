"""Stage `recall` for a recaller from elsewhere: check the lists of a file and store them as a trained recaller's."""

from __future__ import annotations

import numpy as np

from softgrpo.common.artifacts import CANDIDATES
from softgrpo.common.digests import digest_file
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.recallers.candidate_checks import Positions, check_candidates
from softgrpo.recallers.candidates import BLOCK
from softgrpo.recallers.from_file import read_parts
from softgrpo.recallers.stored_lists import ListsWriter
from softgrpo.stages.contract import StageContext
from softgrpo.stages.shards import given_rows, in_shards


def run(context: StageContext) -> dict[str, float]:
    config, name = context.config.recall, context.variant
    corpus, windows = load_corpus(context.inputs["split"]), load_windows(context.inputs["split"])
    context.reporter.info(f"{name}: lists of '{config.files[name]}', digest {digest_file(config.files[name])}")
    positions, first, listed = Positions(corpus), 0, 0
    most = given_rows(context.config.limits)
    with ListsWriter(context.out / CANDIDATES, (name,), config.depth, len(windows)) as writer:
        for lists in read_parts(config.files[name], name, corpus, windows, config.depth, positions, most):
            check_candidates(lists, corpus, windows.at(slice(first, first + len(lists.items))), positions)
            for block in in_shards(np.arange(len(lists.items)), BLOCK):
                writer.write(lists.rows(block))
            first += len(lists.items)
            listed += int((lists.items >= 0).sum())
    return {"mean_list_length": listed / len(windows)}
