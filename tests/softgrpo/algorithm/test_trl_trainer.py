"""`SoftGRPOTrainer` on a toy problem: tiny random BERT, three colours, each with its own best weights."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, EvalPrediction, LlamaForSequenceClassification, TrainerCallback

from softgrpo.algorithm.batching import GroupSampler, PromptCollator, PromptRows, predict_logits, token_counts
from softgrpo.algorithm.noise import row_noise
from softgrpo.algorithm.prompt_trainer import CHECKPOINTING
from softgrpo.algorithm.soft_grpo import (
    clipped_loss,
    entropy,
    exact_kl,
    group_advantages,
    log_density,
    sample,
)
from softgrpo.algorithm.trl_trainer import RewardFunction, SoftGRPOConfig, SoftGRPOTrainer
from softgrpo.errors import ConfigError, SoftGRPOError, TrainingError
from softgrpo.policy.model import trainable_state
from tests.support.toy_policy import CLASSES, toy_decoder, toy_encoder, toy_reward, toy_rows, toy_tokenizer

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
        "loss", "grad_norm", "learning_rate", "padding_share", "samples_per_second", "reward", "reward_std",
        "frac_reward_zero_std", "frac_support_one", "kl", "policy_entropy", "ratio_mean", "ratio_min", "ratio_max",
        "clip_ratio_low", "clip_ratio_high", *(f"sampled_weight_{index}" for index in range(CLASSES)),
    }  # fmt: skip
    assert first["ratio_min"] == first["ratio_mean"] == first["ratio_max"] == 1.0
    assert first["kl"] == pytest.approx(0.0, abs=1e-6)  # the reference is the start
    assert sum(first[f"sampled_weight_{index}"] for index in range(CLASSES)) == pytest.approx(1.0, abs=1e-5)
    assert logs(trainer)[1]["kl"] > 1e-6
    assert all(entry["samples_per_second"] > 0 for entry in logs(trainer))
    # one group holds all 24 rows where there are 24 per step: tokens over 24 times the longest
    lengths = token_counts(toy_rows())
    whole = make(tmp_path, num_train_epochs=1, per_device_train_batch_size=24)
    whole.train()
    assert logs(whole)[0]["padding_share"] == pytest.approx(1 - lengths.sum() / (24 * lengths.max()), abs=1e-6)


def test_the_loss_of_a_step_is_the_formula(tmp_path: Path) -> None:
    """The first two steps of one set of samples, recomputed from the tensor functions."""
    changes = {
        "num_iterations": 2,
        "beta": 0.5,
        "epsilon": 0.05,
        "epsilon_high": 0.1,
        "tau_gumbel": 0.7,
        "noise_scale": 0.5,
        "delta": 1.2,
        "entropy_coef": 0.3,
        "scale_rewards": "none",
    }
    model = toy_encoder(dropout=0.0)
    rows, seen = toy_rows(8), []
    model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(output.logits.detach().clone()), with_kwargs=True
    )
    trainer = make(tmp_path, model, rows=rows, num_train_epochs=1, **changes)
    trainer.train()
    old, new = seen[-2:]
    reference = trainer.reference_logits
    assert reference is not None
    index = torch.tensor(list(GroupSampler(8, 8, 1, seed=42, lengths=token_counts(rows))))
    drawn = sample(old, row_noise(index, (4, CLASSES), seed=42, generation=0), 0.7, 0.9, "noise", 0.5)
    rewards = toy_reward(drawn.weights, {"colour": torch.tensor(rows.columns["colour"])[index]})
    advantages = group_advantages(rewards, "none")
    for logits, entry in zip((old, new), logs(trainer), strict=True):
        density = log_density(logits, drawn.perturbed, drawn.support, 0.7, "noise", 0.5)
        loss = (
            clipped_loss(density, drawn.log_density, advantages, 0.05, 0.1, 1.2).loss
            - 0.3 * entropy(logits).mean()
            + 0.5 * exact_kl(logits, reference[index]).mean()
        )
        assert entry["loss"] == pytest.approx(loss.item(), abs=1e-5)


def test_equal_rewards_teach_nothing_and_are_counted(tmp_path: Path) -> None:
    start = trainable_state(toy_encoder())
    trainer = make(
        tmp_path,
        reward=lambda weights, batch: torch.full(weights.shape[:2], 0.1),
        beta=0.0,
        num_train_epochs=1,
        num_generations=7,  # the mean of seven times 0.1 is not 0.1 in float32
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
        assert getattr(arguments(tmp_path), CHECKPOINTING) is False
        assert getattr(arguments(tmp_path, activation_checkpointing=True), CHECKPOINTING) is True


# ---------------------------------------------------------------- equal runs


def test_the_same_seed_gives_the_same_run(tmp_path: Path, standard: State) -> None:
    torch.rand(7)  # what else drew random numbers does not matter
    assert distance(standard, trained(tmp_path)) == 0.0


@pytest.mark.parametrize("scale", ["group", "none", "batch"])
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
    order = list(GroupSampler(8, 8, 1, seed=42, lengths=token_counts(toy_rows(8))))
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


@pytest.mark.parametrize(
    ("iterations", "stop", "changes"),
    [
        (1, 2, {}),
        (1, 3, {}),
        (1, 4, {}),
        (2, 4, {}),
        (2, 8, {}),
        (1, 4, {"scale_rewards": "batch", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
        (2, 8, {"noise_scale_end": 0.25, "noise": "quasi"}),
        (1, 4, {"sampling": "discrete", "train_sampling_strategy": "random", "disable_dropout": False}),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, iterations: int, stop: int, changes: dict[str, Any]
) -> None:
    """2 epochs of 3 groups; the stops lie inside the first epoch, between the two, and inside the second."""
    common = {
        **changes,
        "num_iterations": iterations,
        "save_strategy": "steps",
        "save_steps": stop,
        "lr_scheduler_type": "linear",
    }
    through = make(tmp_path / "a", **common)
    through.train()
    resumed = make(tmp_path / "b", **common)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{stop}"))
    assert resumed.state.global_step == through.state.global_step == 6 * iterations
    assert distance(trainable_state(through.model), trainable_state(resumed.model)) == 0.0
    times = {
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "train_loss",
        "total_flos",
        "samples_per_second",
    }
    histories = [
        [{k: v for k, v in e.items() if k not in times} for e in t.state.log_history] for t in (through, resumed)
    ]
    assert histories[0] == histories[1]


def test_the_noise_scale_moves_on_a_line_over_the_sets_of_samples(tmp_path: Path) -> None:
    # 2 epochs of 3 groups, 2 steps each: 6 sets. From 1 to 0.5: 1 - 0.1 * set, the same in both steps of a set
    trainer = make(tmp_path, num_iterations=2, noise_scale_end=0.5)
    trainer.train()
    logged = [entry["noise_scale"] for entry in logs(trainer) if "noise_scale" in entry]
    assert logged == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    first = [entry["ratio_max"] for entry in logs(trainer)][::2]
    assert first == [1.0] * 6, "the density of a set is read with the scale that drew it"


def test_a_noise_scale_leaves_the_discrete_arm_as_it_is(tmp_path: Path) -> None:
    plain, scaled = (
        trained(tmp_path / str(scale), sampling="discrete", noise_scale=scale, num_iterations=2)
        for scale in (1.0, 0.25)
    )
    assert distance(plain, scaled) == 0.0


def test_a_start_between_the_steps_of_one_set_of_samples_is_refused(tmp_path: Path) -> None:
    class SaveAtOne(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_save = state.global_step == 1

    trainer = make(tmp_path, num_iterations=2)
    trainer.add_callback(SaveAtOne())
    trainer.train()
    with pytest.raises(TrainingError, match=r"start at step 1.*\[TRAINING-014\]"):
        make(tmp_path, num_iterations=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


# ---------------------------------------------------------------- every setting has an effect


@pytest.mark.parametrize(
    "change",
    [
        {"beta": 0.0},
        {"tau_gumbel": 0.5},
        {"noise": "quasi"},
        {"noise_scale": 0.25},
        {"noise_scale_end": 0.25},
        {"top_p": 0.4},
        {"importance_ratio": "concrete"},
        {"scale_rewards": "none"},
        {"scale_rewards": "batch"},
        {"entropy_coef": 0.1},
        {"num_generations": 8},
        {"num_iterations": 2},
        {"sampling": "discrete"},
        {"train_sampling_strategy": "random"},
        {"data_seed": 7},
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


@pytest.mark.parametrize(("accumulation", "forwards"), [(1, 3), (2, 12)])
def test_a_spread_over_the_step_takes_another_forward_pass_only_where_it_must(
    tmp_path: Path, accumulation: int, forwards: int
) -> None:
    # 24 rows in groups of 8: 3 passes of 8 rows, or 6 of 4 rows, each once without and once with gradient
    model, seen = toy_encoder(), []
    model.register_forward_hook(lambda *given: seen.append(torch.is_grad_enabled()))
    common = {"scale_rewards": "batch", "beta": 0.0, "num_train_epochs": 1}
    size = 8 // accumulation
    trained(tmp_path, model, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, **common)
    assert len(seen) == forwards and sum(seen) == 3 * accumulation


# ---------------------------------------------------------------- what users of the transformers Trainer expect


def right_weights(prediction: EvalPrediction) -> dict[str, float]:
    """Returns the mean reward of softmax(z) on the rows that the labels number."""
    weights = torch.from_numpy(prediction.predictions).softmax(-1)[:, None]
    colours = torch.tensor(toy_rows().columns["colour"])[torch.from_numpy(prediction.label_ids)]
    return {"reward": toy_reward(weights, {"colour": colours}).mean().item()}


def evaluating(folder: Path, *callbacks: TrainerCallback, **changes: Any) -> SoftGRPOTrainer:
    """Returns a trainer that evaluates and saves after every step and keeps the best model."""
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "reward", "save_total_limit": 2}
    args = arguments(folder, **{**settings, **best, **changes})
    return SoftGRPOTrainer(
        toy_encoder(),
        toy_reward,
        args,
        toy_rows(),
        toy_tokenizer(),
        eval_dataset=toy_rows(),
        compute_metrics=right_weights,
        callbacks=list(callbacks),
    )


def test_the_best_model_is_kept(tmp_path: Path) -> None:
    trainer = evaluating(tmp_path, learning_rate=0.05)
    trainer.train()
    rewards = [entry["eval_reward"] for entry in trainer.state.log_history if "eval_reward" in entry]
    assert len(rewards) == 6 and trainer.state.best_metric == max(rewards)
    assert mean_reward(trainer.model) == pytest.approx(max(rewards), abs=1e-6)
    assert all("eval_padding_share" in e for e in trainer.state.log_history if "eval_reward" in e)


def test_training_stops_early(tmp_path: Path) -> None:
    # the rate is far too small for any evaluation to differ from the first
    trainer = evaluating(tmp_path, EarlyStoppingCallback(early_stopping_patience=2), learning_rate=1e-12)
    trainer.train()
    assert trainer.state.global_step == 3 < trainer.state.max_steps == 6


def test_predictions_stand_in_the_order_of_the_rows(tmp_path: Path) -> None:
    trainer = evaluating(tmp_path, per_device_eval_batch_size=5)
    output = trainer.predict(toy_rows())
    expected = predict_logits(trainer.model, toy_rows(), PromptCollator(toy_tokenizer()), 8, False, "test")
    assert output.label_ids.tolist() == list(range(24))
    assert torch.allclose(torch.from_numpy(output.predictions), expected, atol=1e-5)
    assert 0 <= output.metrics["test_padding_share"] < 0.1


def test_activation_checkpointing_recomputes_and_changes_no_gradient(tmp_path: Path) -> None:
    states, calls = [], []
    for wanted in (False, True):
        model, seen = toy_decoder(), []
        model.model.layers[0].input_layernorm.register_forward_hook(lambda *given, seen=seen: seen.append(1))
        common = {"optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 1, "beta": 0.0}
        states.append(trained(tmp_path / str(wanted), model, activation_checkpointing=wanted, **common))
        calls.append(len(seen))
    assert calls == [3, 6]  # three steps; each layer once more in the backward pass
    assert distance(states[0], states[1]) < 1e-6 and distance(states[0], trainable_state(toy_decoder())) > 1e-3


def test_bfloat16_computes_in_bfloat16_and_gives_float32(tmp_path: Path) -> None:
    inside, outside = set(), set()
    model = toy_encoder()
    model.bert.encoder.layer[0].output.dense.register_forward_hook(lambda *given: inside.add(given[-1].dtype))

    def reward(weights: Tensor, batch: Any) -> Tensor:
        outside.add(weights.dtype)
        return toy_reward(weights, batch)

    state = trained(tmp_path, model, reward=reward, bf16=True)
    assert (inside, outside) == ({torch.bfloat16}, {torch.float32})
    assert {value.dtype for value in state.values()} == {torch.float32}


def lora() -> nn.Module:
    """Returns a toy decoder with adapters and a trained head."""
    base, config = toy_decoder(), LoraConfig(r=4, target_modules="all-linear", modules_to_save=["score"])
    config.exclude_modules = ["score"]
    torch.manual_seed(1)
    return get_peft_model(base, config)


def test_adapters_train_save_resume_and_merge(tmp_path: Path) -> None:
    common = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 0.05}
    through, resumed = make(tmp_path / "a", lora(), **common), make(tmp_path / "b", lora(), **common)
    frozen = {name: value.clone() for name, value in through.model.named_parameters() if not value.requires_grad}
    through.train()
    assert all(torch.equal(value, dict(through.model.named_parameters())[name]) for name, value in frozen.items())
    checkpoint = tmp_path / "a/checkpoint-4"
    names = {path.name for path in checkpoint.iterdir()}
    assert "adapter_model.safetensors" in names and "model.safetensors" not in names
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert distance(trainable_state(through.model), trainable_state(resumed.model)) == 0.0
    rows, collator = toy_rows(), PromptCollator(toy_tokenizer())
    adapted = predict_logits(through.model, rows, collator, 8, False, "test")
    merged = through.model.merge_and_unload()
    assert isinstance(merged, LlamaForSequenceClassification)
    assert torch.allclose(predict_logits(merged, rows, collator, 8, False, "test"), adapted, atol=1e-5)
    assert (adapted - predict_logits(toy_decoder(), rows, collator, 8, False, "test")).abs().max() > 0.01


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_padding_side_of_a_decoder_changes_nothing(tmp_path: Path, side: str) -> None:
    common = {"optim": "sgd", "learning_rate": 0.1}
    states = []
    for name, chosen in (("a", "right"), ("b", side)):
        args = arguments(tmp_path / name, **common)
        trainer = SoftGRPOTrainer(toy_decoder(), toy_reward, args, toy_rows(), toy_tokenizer(chosen))
        trainer.train()
        states.append(trainable_state(trainer.model))
    assert distance(states[0], states[1]) < 2e-6


def test_one_process_uses_one_gpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    args = arguments(tmp_path)
    args._n_gpu = 2
    assert args.train_batch_size == 16
    SoftGRPOTrainer(toy_encoder(), toy_reward, args, toy_rows(), toy_tokenizer())
    assert args.train_batch_size == 8 and "One of 2 GPUs is used" in caplog.text


def test_the_trainer_needs_no_package_of_the_pipeline() -> None:
    absent = ("pydantic", "recbole", "prefect", "mlflow", "yaml", "matplotlib", "ranx", "rich")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent[:4]!r}))\n"
        "import softgrpo.algorithm.trl_trainer, softgrpo.algorithm.soft_grpo, softgrpo.algorithm.batching\n"
        "print(*{name for name in sys.modules if name.startswith('softgrpo')})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert "softgrpo.algorithm.trl_trainer" in done.stdout and "softgrpo.config" not in done.stdout


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
        ({"noise": "common"}, "noise = common. It must be independent or quasi"),
        ({"noise_scale": 0.0}, "noise_scale = 0.0. It must be at least 0.001, finite"),
        ({"noise_scale": 1e-300}, "noise_scale = 1e-300. It must be at least 0.001"),
        ({"noise_scale": 9e-4}, "noise_scale = 0.0009"),
        ({"noise_scale": -0.25}, "noise_scale = -0.25"),
        ({"noise_scale": math.nan}, "noise_scale = nan"),
        ({"noise_scale": math.inf}, "noise_scale = inf"),
        ({"noise_scale_end": 0.0}, "noise_scale_end = 0.0. It must be at least 0.001, finite"),
        ({"noise_scale_end": math.nan}, "noise_scale_end = nan"),
        ({"top_p": 0.0}, "top_p = 0.0"),
        ({"top_p": 1.01}, "top_p = 1.01"),
        ({"importance_ratio": "gumbel"}, "importance_ratio = gumbel"),
        ({"epsilon": -0.1}, "epsilon = -0.1"),
        ({"epsilon_high": -0.1}, "epsilon_high = -0.1"),
        ({"delta": 1.2}, "delta = 1.2. It must be above 1 + epsilon_high"),
        ({"delta": math.inf}, "delta = inf"),
        ({"entropy_coef": -0.1}, "entropy_coef = -0.1"),
        ({"entropy_coef": math.nan}, "entropy_coef = nan"),
        ({"beta": -1.0}, "beta = -1.0"),
        ({"beta": math.nan}, "beta = nan"),
        ({"scale_rewards": "all"}, "scale_rewards = all"),
        ({"sampling": "hard"}, "sampling = hard"),
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
        (lambda weights, batch: weights.tolist(), "rewards of shape (8, 4, 3)"),
        (lambda weights, batch: None, "rewards of shape None"),
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
    with pytest.raises(TrainingError, match=r"logits hold 24 NaN .*, after 4 finished steps"):
        trainer.train()
    make(tmp_path, save_strategy="steps", save_steps=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def renamed() -> nn.Module:
    """Returns the toy encoder over another list of classes."""
    model = toy_encoder()
    model.config.id2label = {0: "B", 1: "A", 2: "C"}
    return model


def other_base() -> nn.Module:
    """Returns the adapted decoder on other frozen weights."""
    model = lora()
    with torch.no_grad():
        model.get_base_model().model.embed_tokens.weight.mul_(2.0)
    return model


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (toy_encoder, toy_decoder, "its type: BertForSequenceClassification"),
        (toy_encoder, renamed, "this model's classes: B, A, C"),
        (toy_encoder, lambda: toy_encoder(classes=4), "this model's classes: LABEL_0, LABEL_1, LABEL_2, LABEL_3"),
        (lora, other_base, "its frozen weights"),
        (toy_decoder, lora, "its type: LlamaForSequenceClassification"),
    ],
    ids=["architecture", "names", "number", "base", "adapters"],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, first: Any, second: Any, message: str) -> None:
    common = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1}
    make(tmp_path, first(), **common).train()
    with pytest.raises(TrainingError) as caught:
        make(tmp_path, second(), **common).train(resume_from_checkpoint=True)
    assert message in str(caught.value)


def test_a_checkpoint_of_other_rows_or_of_no_origin_is_refused(tmp_path: Path) -> None:
    common = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1}
    make(tmp_path, **common).train()
    checkpoint = tmp_path / "checkpoint-2"
    with pytest.raises(TrainingError, match="of a run on 24 rows"):
        make(tmp_path, rows=toy_rows(16), **common).train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / "reference.safetensors").unlink()
    with pytest.raises(TrainingError, match="without reference logits"):
        make(tmp_path, **common).train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / "origin.json").unlink()
    with pytest.raises(TrainingError, match=r"without origin\.json"):
        make(tmp_path, **common).train(resume_from_checkpoint=str(checkpoint))


def test_the_reference_of_a_resumed_run_is_that_of_its_start(tmp_path: Path) -> None:
    common = {"save_strategy": "steps", "save_steps": 2}
    first = make(tmp_path, **common)
    first.train()
    again = make(tmp_path, toy_encoder(seed=5), **common)  # all its weights come from the checkpoint
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert first.reference_logits is not None and again.reference_logits is not None
    assert torch.equal(first.reference_logits, again.reference_logits)
    assert distance(trainable_state(first.model), trainable_state(again.model)) == 0.0


def test_an_order_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_sampling_strategy = sequential"):
        make(tmp_path, train_sampling_strategy="sequential").train()


# ---------------------------------------------------------------- the order of the rows


def test_the_trainer_reaches_every_row_in_another_order_each_epoch(tmp_path: Path) -> None:
    seen: list[int] = []

    def reward(weights: Tensor, batch: Any) -> Tensor:
        seen.extend(batch["index"].tolist())
        return toy_reward(weights, batch)

    make(tmp_path, reward=reward, num_iterations=2).train()
    # 24 rows per epoch, 2 epochs: samples are drawn and rewarded on the first of the two iterations only
    assert len(seen) == 48 and sorted(seen[:24]) == sorted(seen[24:]) == list(range(24))
    assert seen[:24] != seen[24:]
