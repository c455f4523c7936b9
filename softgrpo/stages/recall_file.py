"""Stage `recall` for a recaller from elsewhere: check the lists of a file and store them as a trained recaller's."""

from __future__ import annotations

import numpy as np

from softgrpo.common.artifacts import CANDIDATES
from softgrpo.common.digests import digest_file
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.recallers.candidate_checks import check_candidates
from softgrpo.recallers.candidates import write_candidates
from softgrpo.recallers.from_file import read_lists
from softgrpo.stages.contract import StageContext


def run(context: StageContext) -> dict[str, float]:
    config, name = context.config.recall, context.variant
    corpus, windows = load_corpus(context.inputs["split"]), load_windows(context.inputs["split"])
    context.reporter.info(f"{name}: lists of '{config.files[name]}', digest {digest_file(config.files[name])}")
    lists = read_lists(config.files[name], name, corpus, windows, config.depth)
    check_candidates(lists, corpus, windows)
    write_candidates(context.out / CANDIDATES, lists)
    return {"mean_list_length": float(np.mean((lists.items >= 0).sum(2)))}
