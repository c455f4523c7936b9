"""Labels and loss of supervised fine-tuning by hand, and the trainer on the toy problem."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from transformers import TrainingArguments

from softgrpo.algorithm.batching import PromptCollator, PromptRows, predict_logits
from softgrpo.algorithm.sft_trainer import RecallerSFTTrainer, check_labels, soft_cross_entropy
from softgrpo.config import LabelConfig
from softgrpo.errors import TrainingError
from softgrpo.policy.model import trainable_state
from softgrpo.stages.labels import make_class_weights, make_labels
from tests.support.toy_policy import OPTIMA, toy_encoder, toy_rows, toy_tokenizer


def labels(ndcg: list[float], **settings: Any) -> list[float]:
    """Returns the labels of one window."""
    return make_labels(np.array([ndcg], np.float32), LabelConfig(**settings))[0].tolist()


@pytest.mark.parametrize(
    ("ndcg", "expected"),
    [
        ([0.5, 0.2, 0.0], [1.0, 0.0, 0.0]),
        ([0.5, 0.5, 0.1], [0.5, 0.5, 0.0]),  # a tie is shared
        ([0.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]),  # no recaller hits
    ],
)
def test_hard_labels(ndcg: list[float], expected: list[float]) -> None:
    assert labels(ndcg, kind="hard") == pytest.approx(expected)


def test_soft_labels() -> None:
    # exp(0.2 / 0.1) = e^2, exp(0.1 / 0.1) = e, exp(0) = 1
    total = math.e**2 + math.e + 1
    assert labels([0.2, 0.1, 0.0], kind="soft", temperature=0.1) == pytest.approx(
        [math.e**2 / total, math.e / total, 1 / total]
    )
    assert labels([0.0, 0.0], kind="soft") == pytest.approx([0.5, 0.5])
    assert labels([1.0, 0.0], kind="soft", temperature=1e-6) == pytest.approx([1.0, 0.0])  # no overflow


def test_smoothing() -> None:
    # 0.7 * (1, 0, 0) + 0.3 / 3
    assert labels([0.5, 0.2, 0.0], kind="hard", smoothing=0.3) == pytest.approx([0.8, 0.1, 0.1])


@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=6),
    st.sampled_from(["hard", "soft"]),
    st.floats(0.01, 10),
    st.floats(0, 0.9),
)
def test_labels_are_distributions_in_the_order_of_ndcg(
    ndcg: list[float], kind: str, tau: float, smoothing: float
) -> None:
    found = np.array(labels(ndcg, kind=kind, temperature=tau, smoothing=smoothing))
    assert found.sum() == pytest.approx(1.0, abs=1e-5) and (found >= 0).all()
    assert found[int(np.argmax(ndcg))] == found.max()


def test_the_loss_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(5, 3, generator=generator), torch.rand(5, 3, generator=generator).softmax(-1)
    assert torch.allclose(soft_cross_entropy(logits, target), nn.functional.cross_entropy(logits, target))
    # by hand: labels (0.25, 0.75), p = (0.5, 0.5): log 2
    assert soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.25, 0.75]])).item() == pytest.approx(math.log(2))
    assert soft_cross_entropy(logits.bfloat16(), target).dtype == torch.float32


def class_weights(labels: list[list[float]], kind: str = "balanced") -> list[float]:
    """Returns the class weights of some labels."""
    return make_class_weights(np.array(labels, np.float32), LabelConfig(class_weights=kind)).tolist()


def test_balanced_class_weights_by_hand() -> None:
    # 4 windows; the labels of the classes sum to 2.5, 1 and 0.5: 4 / (3 * 2.5), 4 / (3 * 1), 4 / (3 * 0.5)
    labels = [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]
    assert class_weights(labels) == pytest.approx([4 / 7.5, 4 / 3, 8 / 3])
    assert class_weights(labels, "none") == [1.0, 1.0, 1.0]
    # a recaller without any label: 2 windows, 2 recallers, one label each
    assert class_weights([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]) == [1.0, 0.0, 1.0]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_balanced_class_weights_are_those_of_scikit_learn(classes: list[int]) -> None:
    found = class_weights(np.eye(4)[classes].tolist())
    present = sorted(set(classes))
    expected = compute_class_weight("balanced", classes=np.array(present), y=np.array(classes))
    assert [found[index] for index in present] == pytest.approx(expected.tolist())


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=20))
def test_class_weights_have_mean_one_over_the_labels(ndcg: list[list[float]]) -> None:
    soft = make_labels(np.array(ndcg, np.float32), LabelConfig())
    assert float((soft * class_weights(soft.tolist())).sum()) == pytest.approx(len(ndcg), rel=1e-4)


def test_the_weighted_loss_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(5, 3, generator=generator), torch.rand(5, 3, generator=generator).softmax(-1)
    weights = torch.tensor([0.5, 1.0, 3.0])
    expected = nn.functional.cross_entropy(logits, target, weight=weights)
    assert torch.allclose(soft_cross_entropy(logits, target, weights), expected)
    # by hand: p = (0.5, 0.5), labels (0.25, 0.75), weights (2, 4): (0.5 + 3) log 2
    loss = soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.25, 0.75]]), torch.tensor([2.0, 4.0]))
    assert loss.item() == pytest.approx(3.5 * math.log(2))


def test_class_weights_reach_the_gradient(tmp_path: Path) -> None:
    def bias_after(weights: torch.Tensor | None) -> torch.Tensor:
        trainer = make(tmp_path / "weights", batch=24, num_train_epochs=1, optim="sgd", class_weights=weights)
        trainer.train()
        return trainer.model.classifier.bias.detach()

    plain, ones, heavy = (bias_after(each) for each in (None, torch.ones(3), torch.tensor([3.0, 0.01, 0.01])))
    assert torch.equal(plain, ones)
    assert (heavy - plain)[0] > 0 > (heavy - plain)[1:].max()  # the first class is pushed up


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0.5, 0.5, 0.0], [1.2, -0.2, 0.0]], "a label of 1.2"),
        ([[math.nan, 0.5, 0.5]], "a label of nan"),
        ([[0.5, 0.4, 0.0]], "labels of a row that sum to 0.9"),
        ([[0.0, 0.0, 0.0]], "labels of a row that sum to 0"),
        ([[0.5, 0.5]], "labels of shape (1, 2)"),
        ([0, 2, 3], "labels of shape (3,)"),
    ],
)
def test_labels_that_are_no_distributions_are_refused(labels: list[Any], message: str) -> None:
    with pytest.raises(TrainingError, match=re.escape(message)) as caught:
        check_labels(torch.tensor(labels, dtype=torch.float32), 3)
    assert "rows sum to 1" in caught.value.rule
    check_labels(torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]), 3)


def test_the_trainer_refuses_labels_that_are_no_distributions(tmp_path: Path) -> None:
    trainer = make(tmp_path, num_train_epochs=1)
    trainer.train_dataset.columns["label"][5] *= 2
    with pytest.raises(TrainingError, match=r"a label of 1\.6.*\[TRAINING-009\]"):
        trainer.train()


def make(
    folder: Path,
    batch: int = 8,
    accumulation: int = 1,
    dropout: float = 0.0,
    class_weights: torch.Tensor | None = None,
    **changes: Any,
) -> RecallerSFTTrainer:
    """Returns a trainer whose labels are the best weights of each colour."""
    rows = toy_rows()
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "remove_unused_columns": False,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
    }
    return RecallerSFTTrainer(
        class_weights=class_weights,
        model=toy_encoder(dropout=dropout),
        args=TrainingArguments(**{**arguments, **changes}),
        data_collator=PromptCollator(toy_tokenizer()),
        train_dataset=PromptRows(rows.input_ids, {"label": OPTIMA[torch.tensor(rows.columns["colour"])].numpy()}),
    )


def test_it_learns_the_labels(tmp_path: Path) -> None:
    trainer = make(tmp_path, num_train_epochs=20)
    trainer.train()
    rows = toy_rows()
    weights = predict_logits(trainer.model, rows, PromptCollator(toy_tokenizer()), 8, False, "test").softmax(-1)
    assert (weights - OPTIMA[torch.tensor(rows.columns["colour"])]).abs().max() < 0.1


def test_gradient_accumulation_changes_nothing(tmp_path: Path) -> None:
    common = {"optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 1, "max_grad_norm": 0.0}
    whole, split = make(tmp_path / "a", 8, 1, **common), make(tmp_path / "b", 4, 2, **common)
    whole.train()
    split.train()
    first, second = trainable_state(whole.model), trainable_state(split.model)
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-6  # another order of sums


def test_a_resumed_run_equals_an_uninterrupted_one_with_dropout(tmp_path: Path) -> None:
    common = {"dropout": 0.1, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    through = make(tmp_path / "a", **common)
    through.train()
    resumed = make(tmp_path / "b", **common)
    torch.rand(5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    first, second = trainable_state(through.model), trainable_state(resumed.model)
    assert all(torch.equal(first[name], second[name]) for name in first)
