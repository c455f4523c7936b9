"""Stage `split`: read, filter, order and cut the data; check that nothing leaks."""

from __future__ import annotations

import json

import numpy as np

from softgrpo.common.records import SPLIT_PARTS, Part
from softgrpo.data.corpus import read_corpus, write_corpus
from softgrpo.data.windows import check_no_leak, make_windows, tied_target_share, write_windows
from softgrpo.stages.contract import StageContext


def run(context: StageContext) -> dict[str, float]:
    config = context.config
    corpus = read_corpus(config.data, config.seed)
    windows = make_windows(corpus, config.split)
    check_no_leak(corpus, windows)
    write_corpus(context.out, corpus)
    write_windows(context.out, windows)
    metrics = {
        "users": float(corpus.num_users),
        "items": float(corpus.num_items),
        "interactions": float(len(corpus.item)),
        "training_interactions": float(windows.train_end.sum()),
        "tied_target_share": tied_target_share(corpus, windows),
        "users_without_test_window": float(corpus.num_users - len(np.unique(windows.user[windows.part == Part.TEST]))),
    }
    metrics |= {f"windows_{part.name.lower()}": float(len(windows.of(part))) for part in SPLIT_PARTS}
    if np.isnan(metrics["tied_target_share"]):
        del metrics["tied_target_share"]
    context.reporter.info(
        f"{corpus.num_users} users, {corpus.num_items} items, {len(corpus.item)} interactions, {len(windows)} windows"
    )
    (context.out / "protocol.json").write_text(
        json.dumps(config.split.model_dump(mode="json", exclude={"cross_fit"}), indent=2), encoding="utf-8"
    )
    return metrics
