"""Decisions inside stages."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from softgrpo.baselines.gates import Gate
from softgrpo.common.records import Part, Windows
from softgrpo.config import ExperimentConfig, FusionConfig, LabelConfig
from softgrpo.errors import DataError
from softgrpo.pipeline.run import LogReporter
from softgrpo.policy.card import PolicyCard
from softgrpo.ranking.judged import JudgedLists
from softgrpo.stages import test as test_stage
from softgrpo.stages.contract import StageContext
from softgrpo.stages.grpo import choose_reading
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.opened import Opened
from softgrpo.stages.sft import make_targets
from softgrpo.stages.teacher import gate_data, teach
from softgrpo.stages.test import foreign_note
from tests.softgrpo.baselines.cases import fitted, small_config, small_prepared


@pytest.mark.parametrize(("plain", "tempered", "chosen"), [(0.2, 0.3, 0.5), (0.3, 0.2, 1.0), (0.3, 0.3, 1.0)])
def test_validation_chooses_the_reading_of_the_model_that_was_kept(
    plain: float, tempered: float, chosen: float
) -> None:
    drawn = {
        "eval_ndcg_multi": {"step": [0.0, 4.0], "value": [0.9, plain]},
        "eval_ndcg_multi_tau": {"step": [0.0, 4.0], "value": [0.1, tempered]},
    }
    assert choose_reading(drawn, 4.0, tau=0.5) == chosen


def prepared(hits: int, windows: int, **sections: dict[str, bool]) -> Prepared:
    """Returns what the training stages read: policy windows of which the first ones were hit by a recaller."""
    found = Prepared(ExperimentConfig.model_validate(sections), Path("split"), Path("data"))
    zeros = np.zeros(windows, np.int32)
    part = np.full(windows, Part.POLICY, np.int8)
    found.__dict__["windows"] = Windows(zeros, part, zeros, zeros, zeros)
    ndcg = np.zeros((windows, 2), np.float32)
    ndcg[:hits, 1] = 0.5
    found.__dict__["features"] = SimpleNamespace(ndcg=ndcg)
    return found


def rewarded(hits: int, windows: int, monkeypatch: pytest.MonkeyPatch, **sections: dict[str, bool]) -> Prepared:
    """Returns what `prepared` does, with lists of one item each: recaller 1 alone has the target of the first windows."""
    found = prepared(hits, windows, **sections)
    items = torch.tensor([[[1], [2]]]).expand(windows, -1, -1)
    targets = torch.where(torch.arange(windows)[:, None] < hits, 2, 3)
    judged = JudgedLists.build(items, torch.ones(items.shape), targets, FusionConfig(method="score", k=1))
    monkeypatch.setattr(Prepared, "contending", lambda _self, rows, k=None: judged.select(torch.from_numpy(rows)))
    return found


FEW = pytest.mark.parametrize(
    ("hits", "windows", "warned"),
    [
        (99, 120, True),  # below 100
        (100, 120, False),
        (199, 1000, True),  # below a fifth
        (200, 1000, False),
        (50, 50, False),  # nothing was left out
    ],
)


@FEW
def test_few_windows_with_a_hit_are_warned_of(
    hits: int, windows: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert prepared(hits, windows).labelled_rows().tolist() == list(range(hits))
    assert (f"SFT has {hits} of {windows} policy windows to learn from" in caplog.text) is warned
    caplog.clear()
    assert len(prepared(hits, windows, labels={"drop_unhit": False}).labelled_rows()) == windows and not caplog.text


@FEW
def test_windows_in_which_all_weights_earn_the_same_are_left_out_of_soft_grpo(
    hits: int, windows: int, warned: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING):
        assert rewarded(hits, windows, monkeypatch).rewarded_rows().tolist() == list(range(hits))
    assert (f"SofT-GRPO has {hits} of {windows} policy windows to learn from" in caplog.text) is warned
    caplog.clear()
    everything = rewarded(hits, windows, monkeypatch, grpo={"drop_flat": False})
    assert len(everything.rewarded_rows()) == windows and not caplog.text


def test_no_window_to_learn_from_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no policy window with a hit(?s:.)*--labels\.drop_unhit false"):
        prepared(0, 10).labelled_rows()
    with pytest.raises(DataError, match=r"no policy window whose reward(?s:.)*--grpo\.drop_flat false"):
        rewarded(0, 10, monkeypatch).rewarded_rows()


def validated(hits: int, monkeypatch: pytest.MonkeyPatch, limit: int | None = None) -> Prepared:
    """Returns ten windows, the last eight of them for validation, and of all the first `hits` with a target within reach."""
    found = rewarded(hits, 10, monkeypatch)
    found.windows.part[2:] = Part.VALID
    train = found.config.train.model_copy(update={"max_valid_windows": limit})
    few = Prepared(found.config.model_copy(update={"train": train}), found.split, found.data)
    few.__dict__["windows"] = found.windows
    return few


def test_language_models_read_the_validation_windows_in_which_weights_can_earn_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = validated(6, monkeypatch).asked_rows()
    assert asked.rows.tolist() == [2, 3, 4, 5] and (asked.total, asked.share) == (8, 0.5)
    nothing = validated(0, monkeypatch).asked_rows()
    assert nothing.rows.tolist() == [2] and nothing.total == 8  # NDCG 0 either way


def test_a_seeded_sample_chooses_the_model_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample depends on nothing but the windows, the seed and its size; what is read of it depends on the lists."""
    sample = validated(10, monkeypatch, limit=4).asked_rows().rows.tolist()
    assert len(sample) == 4 and sample == sorted(set(sample)) and set(sample) <= set(range(2, 10))
    assert validated(10, monkeypatch, limit=4).asked_rows().rows.tolist() == sample  # the same in SFT and SofT-GRPO
    for hits in range(3, 10):
        few = validated(hits, monkeypatch, limit=4).asked_rows()
        within = [row for row in sample if row < hits]
        assert few.rows.tolist() == (within or sample[:1]) and few.total == 4


def taught(**sections: dict[str, object]) -> tuple[Any, Prepared]:
    """Returns what the stage gets of a small pipeline whose labels a gate gives."""
    config = small_config().model_copy(update={"labels": LabelConfig(kind="gate", smoothing=0.2)})
    config = ExperimentConfig.model_validate({**config.model_dump(), **sections})
    said: list[str] = []
    return SimpleNamespace(config=config, reporter=SimpleNamespace(info=said.append), said=said), small_prepared(config)


def test_a_network_labels_every_policy_window() -> None:
    context, prepared = taught()
    rows = prepared.labelled_rows()
    assert rows.tolist() == prepared.windows.of(Part.POLICY).tolist(), "also where no recaller hits"
    found, (teacher, labels) = make_targets(context, prepared, rows), teach(prepared, rows)
    whole = fitted(prepared, "network")
    assert (teacher.valid_ndcg, teacher.choice) == (whole.valid_ndcg, whole.choice)
    learnt = np.isin(rows, prepared.rewarded_rows())
    assert (
        learnt.any()
        and not learnt.all()
        and np.array_equal(labels[~learnt], whole.weights(prepared.numbers.values[rows])[~learnt])
    )
    assert np.allclose(found, 0.8 * labels + 0.1) and found.dtype == np.float32
    assert f"NDCG {teacher.valid_ndcg:.4f} on validation windows" in context.said[0]


def test_no_window_is_labelled_by_a_gate_that_saw_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    _, prepared = taught()
    rows, learnt = prepared.labelled_rows(), prepared.rewarded_rows()
    halves: list[tuple[np.ndarray, Gate]] = []

    def note(held: Prepared, train: np.ndarray) -> Any:
        halves.append((train, Gate.fit("network", *gate_data(held, train))))
        return gate_data(held, train)

    monkeypatch.setattr("softgrpo.stages.teacher.gate_data", note)
    _, labels = teach(prepared, rows)
    (whole, _), (one, of_one), (other, of_other) = halves
    assert np.array_equal(whole, learnt) and sorted([*one, *other]) == learnt.tolist()
    for seen, gate in ((other, of_one), (one, of_other)):
        places = np.searchsorted(rows, seen)
        assert np.array_equal(labels[places], gate.weights(prepared.numbers.values[seen]))
    assert np.allclose(labels.sum(1), 1)


def test_sft_that_is_left_out_asks_no_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    context, prepared = taught(sft={"num_train_epochs": 0})
    monkeypatch.setattr("softgrpo.stages.sft.teach", None)
    assert make_targets(context, prepared, prepared.labelled_rows()).shape == (80, 2)


def test_policies_of_equal_weights_are_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is read at its own temperature all the same."""
    for name, weights, tau in (("sft", 1.0, 1.0), ("kept", 1.0, 0.5), ("changed", 2.0, 1.0)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.tensor([weights])}, tmp_path / name / "model.safetensors")
        card = PolicyCard("toy", {}, ("A", "B"), 64, "none", None, tau)
        (tmp_path / name / "policy.json").write_text(json.dumps(asdict(card)))
    asked: list[str] = []

    def logits(opened: Opened, node: str, *rest: object) -> torch.Tensor:
        asked.append(opened.inputs[node].name)
        return torch.tensor([[1.0, 0.0]])

    monkeypatch.setattr(test_stage, "policy_logits", logits)

    def learned(name: str) -> dict[str, torch.Tensor]:
        inputs = {"sft": tmp_path / "sft", "grpo": tmp_path / name}
        config = ExperimentConfig.model_validate({"evaluation": {"baselines": []}})
        context = StageContext(config, "", inputs, tmp_path, tmp_path, LogReporter("test"))
        return test_stage.learned_weights(context, Opened(config, inputs))[0]

    kept = learned("kept")
    assert asked == ["sft"]
    assert torch.allclose(kept["sft"], torch.tensor([[1.0, 0.0]]).double().softmax(-1))
    assert torch.allclose(kept["grpo"], torch.tensor([[2.0, 0.0]]).double().softmax(-1))
    learned("changed")
    assert asked == ["sft", "sft", "changed"]


def test_the_report_says_which_recallers_could_not_be_checked() -> None:
    assert foreign_note(ExperimentConfig()) == {}
    files = {"Mine": "mine.parquet", "Yours": "yours.parquet"}
    config = ExperimentConfig.model_validate({"recall": {"recallers": ["BPR", "ItemKNN"], "files": files}})
    assert foreign_note(config) == {
        "recallers from files": "Mine, Yours; what they were trained on could not be checked"
    }
