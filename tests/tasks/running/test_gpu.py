"""Which stages ask for the slot of the GPU. That they wait for it is tested on real servers, in tests/reliability/test_gpu.py."""

from __future__ import annotations

import pytest
import torch

from softgrpo.config import ExperimentConfig
from softgrpo.pipeline.plan import plan
from softgrpo.tasks.running.gpu import uses_gpu


def asking(**sections: object) -> list[str]:
    config = ExperimentConfig.model_validate({"recall": {"recallers": ("BPR", "ItemKNN")}, **sections})
    return [node.name for node in plan(config) if uses_gpu(node, config)]


def test_nobody_asks_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert asking() == []


def test_what_computes_on_the_gpu_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert asking() == ["recall-BPR", "recall-ItemKNN", "sft", "grpo", "test"]
    on_cpu = {"recallers": ("BPR", "ItemKNN"), "settings": {"ItemKNN": {"use_gpu": False}}}
    assert asking(recall=on_cpu) == ["recall-BPR", "sft", "grpo", "test"]
    assert asking(train={"device": "cpu"}) == ["recall-BPR", "recall-ItemKNN"]
    with_text = {"recallers": ("Text", "BPR")}
    assert asking(recall=with_text) == [
        "embed",
        "recall-BPR",
        "sft",
        "grpo",
        "test",
    ]  # `Text` itself is a matrix product
    assert asking(recall=with_text, train={"device": "cpu"}) == ["recall-BPR"]
