"""`SoftGRPOTrainer` on a toy problem: tiny random BERT, three colours, each with its own best weights."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import TrainerCallback

from softgrpo.errors import ConfigError, SoftGRPOError, TrainingError
from softgrpo.policy import trainable_state
from softgrpo.soft_grpo import clipped_loss, exact_kl, group_advantages, log_density, sample
from softgrpo.training import PromptCollator, PromptRows, predict_logits
from softgrpo.trl_trainer import GroupSampler, RewardFunction, SoftGRPOConfig, SoftGRPOTrainer
from tests.toy_policy import CLASSES, toy_encoder, toy_reward, toy_rows, toy_tokenizer

State = dict[str, Tensor]


def arguments(folder: Path, **changes: Any) -> SoftGRPOConfig:
    """Returns arguments of a short CPU run of 2 x 3 steps, 8 of 24 rows each."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "remove_unused_columns": False,
        "lr_scheduler_type": "constant",
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
    }
    return SoftGRPOConfig(**{**settings, **changes})


def make(
    folder: Path,
    model: nn.Module | None = None,
    reward: RewardFunction = toy_reward,
    rows: PromptRows | None = None,
    **changes: Any,
) -> SoftGRPOTrainer:
    """Returns a trainer on the toy problem."""
    return SoftGRPOTrainer(
        toy_encoder() if model is None else model,
        reward,
        arguments(folder, **changes),
        toy_rows() if rows is None else rows,
        toy_tokenizer(),
    )


def trained(folder: Path, model: nn.Module | None = None, **changes: Any) -> State:
    """Returns the weights behind a training."""
    trainer = make(folder, model, **changes)
    trainer.train()
    return trainable_state(trainer.model)


def distance(first: State, second: State) -> float:
    """Returns the largest difference between two sets of weights."""
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> State:
    """The weights behind the standard run."""
    return trained(tmp_path_factory.mktemp("standard"))


def logs(trainer: SoftGRPOTrainer) -> list[dict[str, float]]:
    """Returns the logs of the steps."""
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def mean_reward(model: nn.Module) -> float:
    """Returns the reward of the weights softmax(z)."""
    rows = toy_rows()
    logits = predict_logits(model, rows, PromptCollator(toy_tokenizer()), 8, False, "test")
    return toy_reward(logits.softmax(-1)[:, None], {"colour": torch.tensor(rows.columns["colour"])}).mean().item()


# ---------------------------------------------------------------- learning and logging


@pytest.mark.parametrize("form", ["noise", "concrete"])
def test_it_learns_what_a_prompt_is_worth(tmp_path: Path, form: str) -> None:
    model = toy_encoder()
    before = mean_reward(model)
    trainer = make(tmp_path, model, importance_ratio=form, num_train_epochs=20, num_generations=16, beta=0.0, top_p=1.0)
    trainer.train()
    # the best that the same weights for every prompt can reach are (1/3, 1/3, 1/3): 1 - 2 (0.2333)^2 - (0.4667)^2 = 0.673
    assert before < 0.65 and mean_reward(model) > 0.9


def test_one_forward_serves_all_generations(tmp_path: Path) -> None:
    model, sizes = toy_encoder(), []
    model.register_forward_hook(lambda module, args, kwargs, output: sizes.append(len(output.logits)), with_kwargs=True)
    trainer = make(tmp_path, model, num_generations=64, beta=0.0, num_train_epochs=1)
    trainer.train()
    assert sizes == [8, 8, 8]


def test_the_log_holds_what_a_reader_needs(tmp_path: Path) -> None:
    trainer = make(tmp_path, num_train_epochs=1)
    trainer.train()
    first = logs(trainer)[0]
    assert set(first) >= {
        "loss", "grad_norm", "learning_rate", "reward", "reward_std", "frac_reward_zero_std", "frac_support_one", "kl",
        "policy_entropy", "ratio_mean", "ratio_min", "ratio_max", "clip_ratio_low", "clip_ratio_high",
        *(f"sampled_weight_{index}" for index in range(CLASSES)),
    }  # fmt: skip
    assert first["ratio_min"] == first["ratio_mean"] == first["ratio_max"] == 1.0
    assert first["kl"] == pytest.approx(0.0, abs=1e-6)  # the reference is the start
    assert sum(first[f"sampled_weight_{index}"] for index in range(CLASSES)) == pytest.approx(1.0, abs=1e-5)
    assert logs(trainer)[1]["kl"] > 1e-6


def test_the_loss_of_a_step_is_the_formula(tmp_path: Path) -> None:
    """The first two steps of one set of samples, recomputed from the tensor functions."""
    changes = {
        "num_iterations": 2,
        "beta": 0.5,
        "epsilon": 0.05,
        "epsilon_high": 0.1,
        "tau_gumbel": 0.7,
        "scale_rewards": "none",
    }
    model = toy_encoder(dropout=0.0)
    rows, seen = toy_rows(8), []
    model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(output.logits.detach().clone()), with_kwargs=True
    )
    trainer = make(tmp_path, model, rows=rows, num_train_epochs=1, **changes)
    trainer.train()
    reference, old, new = seen
    index = torch.tensor(list(GroupSampler(8, 8, 1, seed=42)))
    drawn = sample(old, trainer._noise(index, 0, CLASSES), 0.7, 0.9, "noise")
    rewards = toy_reward(drawn.weights, {"colour": torch.tensor(rows.columns["colour"])[index]})
    advantages = group_advantages(rewards, "none")
    for logits, entry in zip((old, new), logs(trainer), strict=True):
        density = log_density(logits, drawn.perturbed, drawn.support, 0.7, "noise")
        loss = (
            clipped_loss(density, drawn.log_density, advantages, 0.05, 0.1).loss
            + 0.5 * exact_kl(logits, reference[index]).mean()
        )
        assert entry["loss"] == pytest.approx(loss.item(), abs=1e-5)


def test_equal_rewards_teach_nothing_and_are_counted(tmp_path: Path) -> None:
    start = trainable_state(toy_encoder())
    trainer = make(
        tmp_path, reward=lambda weights, batch: torch.full(weights.shape[:2], 0.1), beta=0.0, num_train_epochs=1
    )
    trainer.train()
    assert distance(start, trainable_state(trainer.model)) == 0.0
    assert all(entry["frac_reward_zero_std"] == 1.0 for entry in logs(trainer))


def test_one_class_trains_without_a_change(tmp_path: Path) -> None:
    model = toy_encoder(classes=1)
    start = trainable_state(model)
    after = trained(
        tmp_path,
        model,
        reward=lambda weights, batch: weights.sum(-1) * torch.rand(weights.shape[:2]),
        num_train_epochs=1,
    )
    assert distance(start, after) == 0.0


def test_many_single_class_supports_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, top_p=0.05, num_train_epochs=1).train()
    warned = [record for record in caplog.records if "keep one class" in record.message]
    assert len(warned) == 1 and "100 % of the prompts keep one class at top_p = 0.05" in warned[0].message


def test_nothing_deprecated_is_used(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert arguments(tmp_path).activation_checkpointing is False
        assert arguments(tmp_path, activation_checkpointing=True).activation_checkpointing is True


# ---------------------------------------------------------------- equal runs


def test_the_same_seed_gives_the_same_run(tmp_path: Path, standard: State) -> None:
    torch.rand(7)  # what else drew random numbers does not matter
    assert distance(standard, trained(tmp_path)) == 0.0


@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize(("batch", "accumulation"), [(4, 2), (2, 4)])
def test_gradient_accumulation_changes_nothing(tmp_path: Path, scale: str, batch: int, accumulation: int) -> None:
    # SGD, so that the step is the gradient; the sums are taken in another order: some 1e-7 of float32
    common = {"optim": "sgd", "learning_rate": 0.1, "scale_rewards": scale, "num_iterations": 2, "max_grad_norm": 0.0}
    whole = trained(tmp_path / "a", **common)
    split = trained(
        tmp_path / "b", per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, **common
    )
    assert distance(trainable_state(toy_encoder()), whole) > 1e-2
    assert distance(whole, split) < 2e-6


def test_two_times_eight_rows_are_one_times_sixteen(tmp_path: Path) -> None:
    common = {"rows": toy_rows(16), "optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 1}
    whole = trained(tmp_path / "a", per_device_train_batch_size=16, **common)
    split = trained(tmp_path / "b", gradient_accumulation_steps=2, **common)
    assert distance(whole, split) < 1e-6


def test_the_order_within_a_group_of_rows_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"rows": toy_rows(8), "optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 1}
    straight = trained(tmp_path / "a", **common)
    order = list(GroupSampler(8, 8, 1, seed=42))
    monkeypatch.setattr(GroupSampler, "__iter__", lambda self: iter(order[::-1]))
    assert distance(straight, trained(tmp_path / "b", **common)) < 1e-6


def test_padding_to_another_length_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 1}
    tight = trained(tmp_path / "a", **common)
    plain = PromptCollator.__call__

    def wide(self: PromptCollator, rows: Any) -> dict[str, Tensor]:
        batch = plain(self, rows)
        return batch | {name: nn.functional.pad(batch[name], (0, 9)) for name in ("input_ids", "attention_mask")}

    monkeypatch.setattr(PromptCollator, "__call__", wide)
    assert distance(tight, trained(tmp_path / "b", **common)) < 1e-6


@pytest.mark.parametrize(("iterations", "stop"), [(1, 2), (1, 3), (1, 4), (2, 4), (2, 8)])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, iterations: int, stop: int) -> None:
    """2 epochs of 3 groups; the stops lie inside the first epoch, between the two, and inside the second."""
    common = {"num_iterations": iterations, "save_strategy": "steps", "save_steps": stop, "lr_scheduler_type": "linear"}
    through = make(tmp_path / "a", **common)
    through.train()
    resumed = make(tmp_path / "b", **common)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{stop}"))
    assert resumed.state.global_step == through.state.global_step == 6 * iterations
    assert distance(trainable_state(through.model), trainable_state(resumed.model)) == 0.0
    times = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
    histories = [
        [{k: v for k, v in e.items() if k not in times} for e in t.state.log_history] for t in (through, resumed)
    ]
    assert histories[0] == histories[1]


def test_a_start_between_the_steps_of_one_set_of_samples_is_refused(tmp_path: Path) -> None:
    class SaveAtOne(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_save = state.global_step == 1

    trainer = make(tmp_path, num_iterations=2)
    trainer.add_callback(SaveAtOne())
    trainer.train()
    with pytest.raises(TrainingError, match="start at step 1"):
        make(tmp_path, num_iterations=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


# ---------------------------------------------------------------- every setting has an effect


@pytest.mark.parametrize(
    "change",
    [
        {"beta": 0.0},
        {"tau_gumbel": 0.5},
        {"top_p": 0.4},
        {"importance_ratio": "concrete"},
        {"scale_rewards": "none"},
        {"scale_rewards": "batch"},
        {"num_generations": 8},
        {"num_iterations": 2},
        {"disable_dropout": False},
        {"seed": 43},
    ],
    ids=lambda change: "-".join(f"{name}={value}" for name, value in change.items()),
)
def test_a_setting_changes_the_weights(tmp_path: Path, standard: State, change: dict[str, Any]) -> None:
    assert distance(standard, trained(tmp_path, **change)) > 1e-5


def test_a_second_iteration_moves_the_ratio_and_the_clip_acts(tmp_path: Path) -> None:
    common = {"num_iterations": 2, "epsilon": 0.2}
    trainer = make(tmp_path / "a", **common)
    trainer.train()
    first, second = logs(trainer)[:2]
    assert first["ratio_min"] == first["ratio_max"] == 1.0
    assert second["ratio_min"] < 1.0 < second["ratio_max"]
    plain = trainable_state(trainer.model)
    assert distance(plain, trained(tmp_path / "b", **common | {"epsilon": 0.01, "epsilon_high": 0.2})) > 1e-5
    assert distance(plain, trained(tmp_path / "c", **common, epsilon_high=0.01)) > 1e-5
    assert distance(plain, trained(tmp_path / "d", **common, epsilon_high=0.2)) == 0.0  # None takes epsilon
    assert max(entry["clip_ratio_low"] + entry["clip_ratio_high"] for entry in logs(trainer)) > 0.0


def test_a_large_beta_holds_the_policy_at_the_reference(tmp_path: Path) -> None:
    free, held = (make(tmp_path / str(beta), beta=beta, num_train_epochs=6) for beta in (0.001, 10.0))
    free.train()
    held.train()
    assert logs(held)[-1]["kl"] < 0.1 * logs(free)[-1]["kl"]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_generations": 1}, "num_generations = 1. A group needs at least 2"),
        ({"num_iterations": 0}, "num_iterations = 0"),
        ({"tau_gumbel": 0.0}, "tau_gumbel = 0.0"),
        ({"tau_gumbel": -1.0}, "tau_gumbel = -1.0"),
        ({"tau_gumbel": math.nan}, "tau_gumbel = nan"),
        ({"tau_gumbel": math.inf}, "tau_gumbel = inf"),
        ({"top_p": 0.0}, "top_p = 0.0"),
        ({"top_p": 1.01}, "top_p = 1.01"),
        ({"importance_ratio": "gumbel"}, "importance_ratio = gumbel"),
        ({"epsilon": -0.1}, "epsilon = -0.1"),
        ({"epsilon_high": -0.1}, "epsilon_high = -0.1"),
        ({"beta": -1.0}, "beta = -1.0"),
        ({"beta": math.nan}, "beta = nan"),
        ({"scale_rewards": "all"}, "scale_rewards = all"),
        ({"num_iterations": 2, "save_strategy": "steps", "save_steps": 3}, "save_steps = 3"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        arguments(tmp_path, **change)
    assert message in str(caught.value)


def test_checkpoints_at_a_share_of_the_steps_are_legal_with_one_iteration(tmp_path: Path) -> None:
    assert arguments(tmp_path, save_strategy="steps", save_steps=0.5).save_steps == 0.5


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda weights, batch: weights.sum(-1) * math.nan, "rewards hold 32 NaN or infinite values of 32"),
        (lambda weights, batch: weights.sum(-1) / 0.0, "rewards hold 32 NaN or infinite"),
        (lambda weights, batch: weights.mean((1, 2)), "rewards of shape (8,)"),
        (lambda weights, batch: weights, "rewards of shape (8, 4, 3)"),
        (lambda weights, batch: weights[:1, :, 0], "rewards of shape (1, 4)"),
    ],
)
def test_a_broken_reward_stops_training(tmp_path: Path, reward: RewardFunction, message: str) -> None:
    with pytest.raises(SoftGRPOError) as caught:
        make(tmp_path, reward=reward).train()
    assert isinstance(caught.value, TrainingError) and message in str(caught.value)


def test_rewards_may_be_counts(tmp_path: Path) -> None:
    make(tmp_path, reward=lambda weights, batch: (weights > 0.5).sum(-1), num_train_epochs=1).train()


def test_a_model_that_gives_nan_stops_training_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    class Poison(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 4:
                with torch.no_grad():
                    model.classifier.bias.fill_(math.nan)

    trainer = make(tmp_path, save_strategy="steps", save_steps=2)
    trainer.add_callback(Poison())
    with pytest.raises(TrainingError, match="logits hold 24 NaN"):
        trainer.train()
    make(tmp_path, save_strategy="steps", save_steps=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


# ---------------------------------------------------------------- the sampler


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3), st.integers(0, 5))
def test_the_sampler_covers_all_rows_and_repeats_groups(rows: int, group: int, repeats: int, seed: int) -> None:
    sampler = GroupSampler(rows, group, repeats, seed)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == math.ceil(rows / group) * group * repeats
    groups = [drawn[start : start + group] for start in range(0, len(drawn), group)]
    for first in range(0, len(groups), repeats):
        assert all(each == groups[first] for each in groups[first : first + repeats])
    once = [row for each in groups[::repeats] for row in each]
    assert sorted(once[:rows]) == list(range(rows))  # without replacement
    assert all(once[rows + place] == once[place % rows] for place in range(len(once) - rows))  # filled from the start
    assert drawn == list(GroupSampler(rows, group, repeats, seed))


def test_the_sampler_differs_by_epoch_and_seed() -> None:
    sampler = GroupSampler(30, 4, 1, 0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert first == list(sampler) and first != second and first != list(GroupSampler(30, 4, 1, 1))


def test_the_trainer_reaches_every_row_in_another_order_each_epoch(tmp_path: Path) -> None:
    seen: list[int] = []

    def reward(weights: Tensor, batch: Any) -> Tensor:
        seen.extend(batch["index"].tolist())
        return toy_reward(weights, batch)

    make(tmp_path, reward=reward, num_iterations=2).train()
    # 24 rows per epoch, 2 epochs: samples are drawn and rewarded on the first of the two iterations only
    assert len(seen) == 48 and sorted(seen[:24]) == sorted(seen[24:]) == list(range(24))
    assert seen[:24] != seen[24:]
