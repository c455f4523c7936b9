"""What SFT and SofT-GRPO share: batches, evaluation, checkpoints, the best model by validation NDCG."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import EvalPrediction, TrainerCallback, TrainingArguments

from softgrpo.algorithm.batching import PromptCollator, PromptRows, predict_logits
from softgrpo.algorithm.prompt_trainer import CHECKPOINTING
from softgrpo.algorithm.sft_trainer import RecallerSFTTrainer
from softgrpo.algorithm.trl_trainer import SoftGRPOConfig, SoftGRPOTrainer
from softgrpo.config import PolicyConfig, TrainConfig
from softgrpo.errors import TrainingError
from softgrpo.policy.model import create_policy, trainable_state
from softgrpo.reporting import BEST_METRIC
from softgrpo.stages.callbacks import training_callbacks
from softgrpo.stages.training import (
    common_arguments,
    curves,
    evaluation_at,
    last_checkpoint,
    ranking_metrics,
    train_keeping_best,
)
from tests.support.toy_policy import (
    OPTIMA,
    save_base,
    toy_decoder,
    toy_encoder,
    toy_reward,
    toy_rows,
    toy_tokenizer,
)

RECALLERS = ("A", "B", "C")


class Notes:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.lines: list[str] = []

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Takes a point."""
        self.points.append((step, dict(values)))

    def info(self, message: str) -> None:
        """Takes a line."""
        self.lines.append(message)


def judged(weights: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Returns the toy reward by row number alone, as a ranking reward does."""
    colours = torch.tensor(toy_rows().columns["colour"])
    return toy_reward(weights, {"colour": colours[batch["index"]]})


def settings(**changes: Any) -> TrainConfig:
    """Returns shared settings for the toy problem."""
    return TrainConfig(
        **{"per_device_train_batch_size": 8, "device": "cpu", "lr_scheduler": "constant_with_warmup", **changes}
    )


def make_grpo(
    work: Path, notes: Notes, epochs: int = 4, rate: float = 1e-2, iterations: int = 2, **changes: Any
) -> SoftGRPOTrainer:
    """Returns a SofT-GRPO trainer as the stage makes it."""
    rows = toy_rows()
    common = common_arguments(settings(**changes), rate, epochs, len(rows), 42, work, iterations)
    return SoftGRPOTrainer(
        model=toy_encoder(),
        reward=judged,
        args=SoftGRPOConfig(**common, num_iterations=iterations),
        train_dataset=PromptRows(rows.input_ids, {}),
        processing_class=toy_tokenizer(),
        eval_dataset=PromptRows(rows.input_ids, {}),
        compute_metrics=ranking_metrics(judged, RECALLERS, 0.5),
        callbacks=training_callbacks(settings(**changes), notes, "test"),
    )


def make_sft(
    work: Path,
    notes: Notes,
    model: nn.Module | None = None,
    rate: float = 1e-2,
    epochs: int = 4,
    head: float | None = None,
    **changes: Any,
) -> RecallerSFTTrainer:
    """Returns an SFT trainer as the stage makes it; `head` is the head's own rate."""
    rows, shared = toy_rows(), settings(**changes)
    model = toy_encoder() if model is None else model
    return RecallerSFTTrainer(
        model=model,
        head=list(model.get_submodule("classifier").parameters()) if head else (),
        head_learning_rate=head,
        args=TrainingArguments(**common_arguments(shared, rate, epochs, len(rows), 42, work)),
        data_collator=PromptCollator(toy_tokenizer()),
        train_dataset=PromptRows(rows.input_ids, {"label": OPTIMA[torch.tensor(rows.columns["colour"])].numpy()}),
        eval_dataset=PromptRows(rows.input_ids, {}),
        compute_metrics=ranking_metrics(judged, RECALLERS, 1.0),
        callbacks=training_callbacks(shared, notes, "test"),
    )


def evaluated(trainer: Any) -> float:
    """Returns the validation number of the model as it is."""
    return float(trainer.evaluate()[BEST_METRIC])


# ---------------------------------------------------------------- batches and evaluation


def test_ranking_metrics_by_hand() -> None:
    # logits log (0.6, 0.3, 0.1); the reward is the weight of the first recaller.
    # multi: 0.6; tau = 0.5: squares 0.36 / (0.36 + 0.09 + 0.01) = 0.36 / 0.46; single: 1
    compute = ranking_metrics(lambda weights, batch: weights[..., 0], RECALLERS, tau=0.5)
    found = compute(EvalPrediction(np.log([[0.6, 0.3, 0.1]]), np.array([0])))
    assert found == pytest.approx(
        {
            "ndcg_multi": 0.6,
            "ndcg_multi_tau": 0.36 / 0.46,
            "ndcg_best_reading": 0.36 / 0.46,
            "ndcg_single": 1.0,
            "weight_A": 0.6,
            "weight_B": 0.3,
            "weight_C": 0.1,
        }
    )


def test_windows_that_were_not_read_count_as_0() -> None:
    compute = ranking_metrics(lambda weights, batch: weights[..., 0], RECALLERS, tau=0.5, share=0.25)
    found = compute(EvalPrediction(np.log([[0.6, 0.3, 0.1]]), np.array([0])))
    assert (found["ndcg_multi"], found["ndcg_single"], found["weight_A"]) == pytest.approx((0.15, 0.25, 0.6))
    assert found["ndcg_best_reading"] == found["ndcg_multi_tau"] == pytest.approx(0.25 * 0.36 / 0.46)


@pytest.mark.parametrize(("tau", "better"), [(0.5, "ndcg_multi_tau"), (2.0, "ndcg_multi"), (1.0, "ndcg_multi")])
def test_models_are_chosen_by_the_better_reading(tau: float, better: str) -> None:
    # the reward is the weight of the first recaller, the largest one: lower temperatures raise it
    compute = ranking_metrics(lambda weights, batch: weights[..., 0], RECALLERS, tau)
    found = compute(EvalPrediction(np.log([[0.6, 0.3, 0.1]]), np.array([0])))
    assert f"eval_{'ndcg_best_reading'}" == BEST_METRIC
    assert found["ndcg_best_reading"] == found[better] == max(found["ndcg_multi"], found["ndcg_multi_tau"])


def test_evaluation_keeps_rows_and_logits_together(tmp_path: Path) -> None:
    trainer = make_sft(tmp_path, Notes())
    output = trainer.predict(trainer.eval_dataset)
    expected = predict_logits(trainer.model, toy_rows(), PromptCollator(toy_tokenizer()), 64, False, "test")
    assert output.label_ids.tolist() == list(range(24))
    assert torch.allclose(torch.from_numpy(output.predictions), expected, atol=1e-5)


# ---------------------------------------------------------------- the head's own rate


def test_a_head_learns_at_its_own_rate(tmp_path: Path) -> None:
    """Steps of Adam have the size of the rate at first, whatever the gradient."""
    trainer = make_sft(tmp_path, Notes(), rate=1e-5, epochs=1, head=1e-2)
    before = trainable_state(trainer.model)
    trainer.train()
    assert trainer.optimizer is not None
    assert sorted({group["lr"] for group in trainer.optimizer.param_groups}) == [1e-5, 1e-2]
    moved = {name: float((value - before[name]).abs().max()) for name, value in trainable_state(trainer.model).items()}
    assert moved["classifier.weight"] > 5e-3 and max(v for name, v in moved.items() if "classifier" not in name) < 1e-4
    trained = [value for group in trainer.optimizer.param_groups for value in group["params"]]
    assert len(trained) == len({id(value) for value in trained}) == len(before), "each weight once"
    trainer.create_optimizer()  # a second training goes on with the same groups
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(before)


def test_a_head_with_a_rate_of_its_own_resumes_exactly(tmp_path: Path) -> None:
    through, crashing, resumed = (
        make_sft(tmp_path / folder, Notes(), toy_encoder(dropout=0.0), rate=1e-3, head=5e-2) for folder in "abb"
    )
    expected = train_keeping_best(through, tmp_path / "a", Notes())
    crashing.add_callback(StopAt(8))
    with pytest.raises(InterruptedError):
        train_keeping_best(crashing, tmp_path / "b", Notes())
    assert train_keeping_best(resumed, tmp_path / "b", Notes()) == expected
    assert resumed._initial_global_step > 0
    first, second = trainable_state(through.model), trainable_state(resumed.model)
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("rows", "epochs", "iterations", "evaluations"),
    [(24, 4, 2, 4), (1000, 3, 1, 4), (5, 1, 3, 4), (1000, 2, 3, 100), (90, 0.5, 2, 2)],
)
def test_evaluations_and_checkpoints_fall_between_sets_of_samples(
    tmp_path: Path, rows: int, epochs: float, iterations: int, evaluations: int
) -> None:  # fmt: skip
    found = common_arguments(settings(evaluations=evaluations), 1e-3, epochs, rows, 1, tmp_path, iterations)
    assert found["eval_steps"] == found["save_steps"]
    assert found["save_steps"] % iterations == 0 and found["save_steps"] % found["logging_steps"] == 0
    steps = math.ceil(math.ceil(rows / 8) * epochs) * iterations
    assert 1 <= math.ceil(steps / found["eval_steps"]) <= evaluations, (
        "as many as asked for at most, the last step's included"
    )


def test_the_order_of_rows_is_a_setting(tmp_path: Path) -> None:
    for wanted, strategy in ((True, "group_by_length"), (False, "random")):
        common = common_arguments(settings(group_by_length=wanted), 1e-3, 1, 24, 1, tmp_path)
        assert SoftGRPOConfig(**common).train_sampling_strategy == strategy
        assert TrainingArguments(**common).train_sampling_strategy == strategy


def test_nothing_deprecated_is_used(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        for wanted in (True, False):
            common = common_arguments(settings(gradient_checkpointing=wanted), 1e-3, 1, 24, 1, tmp_path)
            assert getattr(TrainingArguments(**common), CHECKPOINTING) is wanted
            assert getattr(SoftGRPOConfig(**common), CHECKPOINTING) is wanted


def gradients(trainer: Any) -> dict[str, Tensor]:
    """Returns the gradients of one batch, dropout off."""
    trainer.model.eval()  # dropout off; then `train` for checkpointing alone, which acts in training only
    for module in trainer.model.modules():
        module.training = not isinstance(module, nn.Dropout)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).backward()
    return {name: value.grad.clone() for name, value in trainer.model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("base", [toy_encoder, toy_decoder])
def test_gradient_checkpointing_recomputes_and_changes_no_gradient(tmp_path: Path, base: Any, adapter: str) -> None:
    name = save_base(tmp_path / "base", base(), toy_tokenizer())
    config = PolicyConfig(model_name=name, adapter=adapter, lora_r=4, prior="none")
    found = []
    for wanted in (False, True):
        work = tmp_path / str(wanted)
        model = create_policy(config, RECALLERS, 32, np.array([0.6, 0.3, 0.1]), seed=1).model
        trainer = make_sft(work, Notes(), model, rate=1e-9, epochs=1, gradient_checkpointing=wanted)
        train_keeping_best(trainer, work, Notes())  # switches checkpointing on
        passes: list[int] = []
        ends = ("0.attention.self.query", "0.self_attn.q_proj")
        inner = next(module for name, module in model.named_modules() if name.endswith(ends))
        inner.register_forward_pre_hook(lambda module, inputs, seen=passes: seen.append(1))
        found.append(gradients(trainer))
        assert len(passes) == (2 if wanted else 1)  # once more in the backward pass
    assert found[0].keys() == found[1].keys() and any("lora_" in name for name in found[0]) is (adapter == "lora")
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-7) for name in found[0])
    assert max(value.abs().max().item() for value in found[0].values()) > 1e-3


def test_activation_checkpointing_changes_no_number(tmp_path: Path) -> None:
    for make in (make_grpo, make_sft):
        states = []
        for wanted in (False, True):
            work = tmp_path / f"{make.__name__}-{wanted}"
            trainer = make(work, Notes(), epochs=1, gradient_checkpointing=wanted)
            assert getattr(trainer.model, f"is_{CHECKPOINTING}") is False
            train_keeping_best(trainer, work, Notes())
            assert getattr(trainer.model, f"is_{CHECKPOINTING}") is wanted
            states.append(trainable_state(trainer.model))
        assert all(torch.allclose(states[0][name], states[1][name], atol=1e-6) for name in states[0])


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("make", [make_grpo, make_sft])
def test_bfloat16_computes_in_bfloat16_and_keeps_weights_in_float32(tmp_path: Path, make: Any, bf16: bool) -> None:
    trainer, seen = make(tmp_path, Notes(), bf16=bf16), set()
    layer = trainer.model.bert.encoder.layer[0].intermediate.dense
    layer.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    result = train_keeping_best(trainer, tmp_path, Notes())
    assert seen == {torch.bfloat16 if bf16 else torch.float32}
    assert result["best_ndcg"] > result["start_ndcg"]
    assert {value.dtype for value in trainable_state(trainer.model).values()} == {torch.float32}


# ---------------------------------------------------------------- the best model, and resuming


@pytest.mark.parametrize("make", [make_grpo, make_sft])
def test_the_best_model_is_kept(tmp_path: Path, make: Any) -> None:
    notes = Notes()
    trainer = make(tmp_path, notes)
    result = train_keeping_best(trainer, tmp_path, notes)
    points = {step: values[BEST_METRIC] for step, values in notes.points if BEST_METRIC in values}
    assert result["best_ndcg"] == max(points.values()) == points[int(result["best_step"])]
    assert result["start_ndcg"] == points[0] < result["best_ndcg"]
    assert result["steps"] == max(points) == (24 if make is make_grpo else 12)  # 4 epochs of 3 groups, 2 iterations
    assert evaluated(trainer) == pytest.approx(result["best_ndcg"], abs=1e-6)


@pytest.mark.parametrize("make", [make_grpo, make_sft])
def test_no_epoch_leaves_the_policy_as_it_is(tmp_path: Path, make: Any) -> None:
    notes = Notes()
    trainer = make(tmp_path, notes, epochs=0)
    start = {name: values.clone() for name, values in trainable_state(trainer.model).items()}
    result = train_keeping_best(trainer, tmp_path, notes)
    assert result["steps"] == result["best_step"] == 0 and result["best_ndcg"] == result["start_ndcg"]
    after = trainable_state(trainer.model)
    assert all(torch.equal(start[name], after[name]) for name in start)
    assert evaluation_at(curves(trainer), 0.0)["ndcg_multi"] == pytest.approx(result["start_ndcg"])


def test_the_start_is_kept_where_nothing_beats_it(tmp_path: Path) -> None:
    good = make_sft(tmp_path / "good", Notes(), epochs=20)
    train_keeping_best(good, tmp_path / "good", Notes())
    start, notes = trainable_state(good.model), Notes()
    ruin = make_sft(tmp_path / "ruin", notes, good.model, rate=0.5)
    result = train_keeping_best(ruin, tmp_path / "ruin", notes)
    assert result["best_step"] == 0 and result["best_ndcg"] == result["start_ndcg"]
    after = trainable_state(ruin.model)
    assert all(torch.equal(start[name], after[name]) for name in start)
    assert "no evaluation beats the starting point on validation windows: it is kept" in notes.lines


class StopAt(TrainerCallback):
    """A crash behind a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Crashes."""
        if state.global_step == self._step:
            raise InterruptedError


# ---------------------------------------------------------------- early stopping


def scripted(trainer: Any, script: list[float]) -> None:
    """Makes evaluation give the numbers of a script, the first for the start, by the step it falls on."""
    every = trainer.args.eval_steps
    plain = trainer.compute_metrics
    trainer.compute_metrics = lambda prediction: (
        plain(prediction) | {"ndcg_best_reading": script[trainer.state.global_step // every]}
    )


@pytest.mark.parametrize(
    ("make", "patience", "script", "stops", "best"),
    [
        (make_sft, 1, [0.5, 0.4, 0.6, 0.7], 1, 0),  # the start is a candidate: the first evaluation already fails
        (make_sft, 1, [0.1, 0.4, 0.4, 0.7], 2, 1),  # an equal one is no better
        (make_sft, 2, [0.1, 0.4, 0.3, 0.5, 0.4, 0.4, 0.9], 5, 3),  # a better one starts the count anew
        (make_grpo, 2, [0.1, 0.4, 0.3, 0.2], 3, 1),
        (make_sft, None, [0.5, 0.4, 0.3, 0.2], 4, 0),
    ],
)
def test_training_stops_early(
    tmp_path: Path, make: Any, patience: int | None, script: list[float], stops: int, best: int
) -> None:  # fmt: skip
    notes = Notes()
    trainer = make(tmp_path, notes, epochs=8, evaluations=8, early_stopping_patience=patience)
    every = trainer.args.eval_steps
    full = 24 if make is make_sft else 48  # 8 epochs of 3 groups, 2 iterations each in SofT-GRPO
    scripted(trainer, script + [0.0] * 10)
    result = train_keeping_best(trainer, tmp_path, notes)
    assert result["steps"] == (full if patience is None else stops * every)
    assert result["best_step"] == best * every and result["best_ndcg"] == script[best]
    said = f"stopped early, behind step {stops * every} of {full}"
    assert (said in notes.lines) is (patience is not None)


@pytest.mark.parametrize(("make", "crash"), [(make_grpo, 25), (make_sft, 5)])
def test_a_crash_changes_nothing_about_stopping_early(tmp_path: Path, make: Any, crash: int) -> None:
    """The resumed run evaluates its checkpoint once more, and that must not count as a failure."""
    script = [0.1, 0.2, 0.5, 0.4, 0.3] + [0.9] * 10

    def fresh(folder: str) -> Any:
        trainer = make(tmp_path / folder, Notes(), epochs=8, evaluations=8, early_stopping_patience=2)
        scripted(trainer, script)
        return trainer

    through = fresh("a")
    expected = train_keeping_best(through, tmp_path / "a", Notes())
    every = through.args.eval_steps
    assert expected["steps"] == 4 * every and expected["best_ndcg"] == 0.5
    crashing = fresh("b")
    crashing.add_callback(StopAt(crash))
    with pytest.raises(InterruptedError):
        train_keeping_best(crashing, tmp_path / "b", Notes())
    resumed = fresh("b")
    assert train_keeping_best(resumed, tmp_path / "b", Notes()) == expected
    assert resumed._initial_global_step == crash // every * every > 0
    again = fresh("b")
    assert train_keeping_best(again, tmp_path / "b", Notes()) == expected  # the stage crashed behind its training
    states = [trainable_state(trainer.model) for trainer in (through, resumed, again)]
    assert all(torch.equal(states[0][name], state[name]) for state in states[1:] for name in state)


def test_patience_that_could_stop_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="cannot stop anything with evaluations = 4"):
        settings(early_stopping_patience=4)
    assert settings(early_stopping_patience=3).early_stopping_patience == 3


@pytest.mark.parametrize(("make", "steps"), [(make_grpo, (7, 15)), (make_sft, (4, 8))])
def test_a_run_that_crashed_twice_equals_an_uninterrupted_one(
    tmp_path: Path, make: Any, steps: tuple[int, ...]
) -> None:
    through = make(tmp_path / "a", Notes())
    expected = train_keeping_best(through, tmp_path / "a", Notes())
    for step in steps:
        crashing = make(tmp_path / "b", Notes())
        crashing.add_callback(StopAt(step))
        with pytest.raises(InterruptedError):
            train_keeping_best(crashing, tmp_path / "b", Notes())
    resumed, notes = make(tmp_path / "b", Notes()), Notes()
    assert train_keeping_best(resumed, tmp_path / "b", notes) == expected
    assert any(line.startswith("resuming from checkpoint-") for line in notes.lines)
    first, second = trainable_state(through.model), trainable_state(resumed.model)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert curves(through) == curves(resumed)


def test_adapters_train_resume_and_keep_the_best(tmp_path: Path) -> None:
    name = save_base(tmp_path / "base", toy_encoder(dropout=0.0), toy_tokenizer())
    config = PolicyConfig(model_name=name, adapter="lora", lora_r=4, prior="static")

    def fresh() -> nn.Module:
        return create_policy(config, RECALLERS, 32, np.array([0.6, 0.3, 0.1]), seed=1).model

    through, crashing, resumed = (make_sft(tmp_path / folder, Notes(), fresh()) for folder in "abb")
    frozen = {key: value.clone() for key, value in through.model.named_parameters() if not value.requires_grad}
    expected = train_keeping_best(through, tmp_path / "a", Notes())
    assert expected["best_ndcg"] > expected["start_ndcg"] and evaluated(through) == pytest.approx(expected["best_ndcg"])
    assert all(torch.equal(value, dict(through.model.named_parameters())[key]) for key, value in frozen.items())
    crashing.add_callback(StopAt(8))
    with pytest.raises(InterruptedError):
        train_keeping_best(crashing, tmp_path / "b", Notes())
    assert train_keeping_best(resumed, tmp_path / "b", Notes()) == expected
    first, second = trainable_state(through.model), trainable_state(resumed.model)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_incomplete_checkpoints_are_removed(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "nowhere") is None
    for step, state in ((2, "{}"), (10, "{}"), (12, '{"step": 1'), (14, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2"]


def test_curves_hold_no_times(tmp_path: Path) -> None:
    trainer = make_grpo(tmp_path, Notes())
    train_keeping_best(trainer, tmp_path, Notes())
    found = curves(trainer)
    assert {"loss", "reward", "kl", "grad_norm", "learning_rate", BEST_METRIC, "eval_weight_A"} <= set(found)
    assert not [name for name in found if any(word in name for word in ("time", "second", "epoch", "flos"))]
    assert all(
        len(each["step"]) == len(each["value"]) and each["step"] == sorted(each["step"]) for each in found.values()
    )
    assert found[BEST_METRIC]["step"][0] == 0.0
    json.dumps(found)


def test_a_loss_that_is_not_finite_stops_training_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    class Poison(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 4:
                with torch.no_grad():
                    model.classifier.bias.fill_(math.nan)

    trainer = make_sft(tmp_path, Notes())
    trainer.add_callback(Poison())
    with pytest.raises(
        TrainingError, match=r"(logits hold .* NaN or infinite|loss is nan).*, after [45] finished steps"
    ):
        train_keeping_best(trainer, tmp_path, Notes())
    checkpoint = last_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None and checkpoint.name == "checkpoint-3"
    assert train_keeping_best(make_sft(tmp_path, Notes()), tmp_path, Notes())["steps"] == 12


def test_a_finished_training_whose_stage_crashed_gives_the_same_again(tmp_path: Path) -> None:
    first, second = make_grpo(tmp_path, Notes()), make_grpo(tmp_path, Notes())
    expected = train_keeping_best(first, tmp_path, Notes())
    assert train_keeping_best(second, tmp_path, Notes()) == expected
    states = trainable_state(first.model), trainable_state(second.model)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_lost_best_checkpoint_does_not_pass_for_the_best(tmp_path: Path) -> None:
    """A folder that was moved: the path of the best model in it leads nowhere, so training starts again."""
    trainer = make_sft(tmp_path, Notes())
    train_keeping_best(trainer, tmp_path, Notes())
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]) == checkpoint
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "checkpoints", moved / "checkpoints")
    again = make_sft(moved, Notes())
    notes = Notes()
    result = train_keeping_best(again, moved, notes)
    assert not any(line.startswith("resuming") for line in notes.lines)
    assert evaluated(again) == pytest.approx(result["best_ndcg"], abs=1e-6)


def test_the_numbers_of_one_evaluation() -> None:
    drawn = {"eval_a": {"step": [0.0, 4.0], "value": [1.0, 2.0]}, "eval_b": {"step": [4.0], "value": [3.0]}}
    drawn["loss"] = {"step": [4.0], "value": [9.0]}
    assert evaluation_at(drawn, 4.0) == {"a": 2.0, "b": 3.0}
    assert evaluation_at(drawn, 0.0) == {"a": 1.0}


@pytest.mark.parametrize("change", ["model", "recallers", "adapter"])
def test_a_checkpoint_of_another_model_or_pool_is_refused(tmp_path: Path, change: str) -> None:
    def fresh(name: str, recallers: tuple[str, ...], adapter: str) -> nn.Module:
        config = PolicyConfig(model_name=name, adapter=adapter, lora_r=4)
        return create_policy(config, recallers, 32, np.array([0.6, 0.3, 0.1]), seed=1).model

    encoder = save_base(tmp_path / "encoder", toy_encoder(), toy_tokenizer())
    decoder = save_base(tmp_path / "decoder", toy_decoder(), toy_tokenizer())
    train_keeping_best(make_sft(tmp_path, Notes(), fresh(encoder, RECALLERS, "none"), epochs=1), tmp_path, Notes())
    other = fresh(
        decoder if change == "model" else encoder,
        ("B", "A", "C") if change == "recallers" else RECALLERS,
        "lora" if change == "adapter" else "none",
    )
    with pytest.raises(TrainingError, match="checkpoint"):
        train_keeping_best(make_sft(tmp_path, Notes(), other, epochs=1), tmp_path, Notes())
