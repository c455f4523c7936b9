"""Several reward functions: what they are given, how they are added up, and what a trainer says of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from datasets import Dataset
from torch import Tensor

from softgrpo.algorithm.batching import PromptCollator, PromptRows
from softgrpo.algorithm.prompt_data import as_rows
from softgrpo.algorithm.reward_functions import RewardFunctions, advantages
from softgrpo.algorithm.trl_trainer import SoftGRPOConfig, SoftGRPOTrainer
from softgrpo.errors import ConfigError, TrainingError
from tests.support.toy_policy import OPTIMA, toy_encoder, toy_tokenizer

NAMES = ["red", "green", "blue"]
DATA = {"prompt": [f"{NAMES[row % 3]} a b" for row in range(12)], "colour": [row % 3 for row in range(12)]}
WEIGHTS = torch.tensor([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]])  # B = 1, G = 2, M = 3


def closeness(weights: Tensor, colour: Tensor) -> Tensor:
    """Returns `1 - |w - w*|^2`, where the colour of the prompt decides the best weights w*."""
    return 1.0 - (weights - OPTIMA[colour][:, None]).square().sum(-1)


def largest(weights: Tensor, **columns: Any) -> list[list[float]]:
    """Returns the largest weight, as TRL's functions return lists."""
    values: list[list[float]] = weights.amax(-1).tolist()
    return values


def first(weights: Tensor, batch: Any) -> Tensor:
    """Returns the first weight; takes the whole batch."""
    return weights[..., 0] + 0.0 * batch["index"][:, None]


def make(folder: Path, functions: Any, data: Any = None, **changes: Any) -> SoftGRPOTrainer:
    """Returns a trainer on the toy problem: 3 steps of 4 rows each."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "learning_rate": 1e-2,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "train_sampling_strategy": "random",
    }
    kwargs = {name: changes.pop(name) for name in ("eval_dataset", "eval_reward_funcs") if name in changes}
    return SoftGRPOTrainer(
        toy_encoder(), functions, SoftGRPOConfig(**settings | changes), DATA if data is None else data,
        toy_tokenizer(), **kwargs,
    )  # fmt: skip


# ---------------------------------------------------------------- what functions are given


def test_functions_get_the_columns_that_they_name_and_their_rewards_are_weighed() -> None:
    functions = RewardFunctions([closeness, largest, first], [2.0, 0.5, -1.0], ["prompt", "colour"])
    assert functions.names == ["closeness", "largest", "first"]
    batch = {"prompt": ["red a"], "colour": torch.tensor([0]), "index": torch.tensor([7])}
    rewards = functions.of(WEIGHTS, batch)
    # w* = (0.8, 0.1, 0.1): 1 - (0.09 + 0.16 + 0.01) = 0.74 and 1 - (0.04 + 0.01 + 0.01) = 0.94
    assert torch.allclose(rewards[0], torch.tensor([[0.74, 0.5, 0.5], [0.94, 1.0, 1.0]]))
    # 2 * 0.74 + 0.25 - 0.5 and 2 * 0.94 + 0.5 - 1
    assert torch.allclose(functions.total(rewards), torch.tensor([[1.23, 1.38]]))


def test_a_function_may_name_prompts_the_row_and_the_state_of_the_trainer() -> None:
    seen: dict[str, Any] = {}

    def reward(weights: Tensor, prompts: list[str], index: Tensor, trainer_state: Any, bonus: float = 3.0) -> Tensor:
        seen.update(prompts=prompts, index=index.tolist(), state=trainer_state, bonus=bonus)
        return weights[..., 0]

    functions = RewardFunctions(reward, None, ["prompt", "input_ids"])
    functions.of(WEIGHTS, {"prompt": ["red a"], "index": torch.tensor([7]), "input_ids": WEIGHTS}, state="now")
    assert seen == {"prompts": ["red a"], "index": [7], "state": "now", "bonus": 3.0}


def test_what_knows_rows_by_number_is_not_asked_about_others() -> None:
    def by_row(weights: Tensor, index: Tensor) -> Tensor:
        return weights[..., 0]

    functions = RewardFunctions([first, closeness, by_row], [1.0, 2.0, 3.0], ["colour"])
    other = functions.for_other_rows()
    assert other is not None and other.names == ["closeness"] and other.weights.tolist() == [2.0]
    assert RewardFunctions([first, by_row], None, ["colour"]).for_other_rows() is None


@pytest.mark.parametrize(
    ("functions", "weights", "message"),
    [
        ([closeness], [1.0, 2.0], r"reward_weights of 2 numbers for 1 reward functions.*\[CONFIG-103\]"),
        ([closeness, closeness], None, r"closeness, closeness.*a name of its own.*\[CONFIG-102\]"),
        ([], None, r"reward functions none.*\[CONFIG-102\]"),
    ],
)
def test_functions_and_weights_go_together(functions: Any, weights: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RewardFunctions(functions, weights, ["colour"])


def test_a_column_that_is_missing_is_named() -> None:
    def reward(weights: Tensor, relevance: Tensor, depth: Tensor) -> Tensor:
        return weights[..., 0]

    with pytest.raises(TrainingError, match=r"parameters relevance, depth\. .*colour, index.*\[TRAINING-027\]"):
        RewardFunctions(reward, None, ["colour"])


# ---------------------------------------------------------------- aggregation


def test_normalising_before_adding_up_by_hand() -> None:
    # two groups of two; function 1 has spreads 1 and 100, which the second way makes equal
    rewards = torch.tensor([[[0.0, 1.0], [2.0, 1.0]], [[0.0, 4.0], [200.0, 0.0]]])
    functions = RewardFunctions([closeness, largest], [1.0, 1.0], ["colour"])
    assert torch.equal(functions.scores(rewards, "sum_then_normalize"), torch.tensor([[1.0, 3.0], [4.0, 200.0]]))
    scores = functions.scores(rewards, "normalize_then_sum")
    # of two values a < b: (a - mean) / std = -1 / sqrt 2, +1 / sqrt 2; equal values give 0; in group 2 the two cancel out
    half = 1 / math.sqrt(2)
    assert torch.allclose(scores, torch.tensor([[-half, half], [0.0, 0.0]]), atol=1e-3)
    # their standard deviation (divisor 3): sqrt(2 * 0.5 / 3)
    expected = scores / math.sqrt(1 / 3)
    assert torch.allclose(advantages(scores, "normalize_then_sum", "group", None), expected, atol=1e-3)
    # over a step that also saw the opposite of group 1: sqrt(4 * 0.5 / 5)
    step = torch.cat([scores, -scores[:1]])
    halved = scores / math.sqrt(2 / 5)
    assert torch.allclose(advantages(scores, "normalize_then_sum", "group", step), halved, atol=1e-3)


@pytest.mark.parametrize("how", ["sum_then_normalize", "normalize_then_sum"])
def test_micro_batches_are_scaled_together(tmp_path: Path, how: str) -> None:
    """One step of 4 rows trains the same in one batch and in two halves."""
    states = []
    for size, accumulation in ((4, 1), (2, 2)):
        trainer = make(
            tmp_path, [closeness, largest], per_device_train_batch_size=size, gradient_accumulation_steps=accumulation,
            multi_objective_aggregation=how, scale_rewards="batch", beta=0.0, optim="sgd", learning_rate=0.1,
        )  # fmt: skip
        trainer.train()
        states.append([value.detach().clone() for value in trainer.model.parameters()])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*states, strict=True))


# ---------------------------------------------------------------- data


def test_data_of_any_form_give_the_same_rows() -> None:
    tokenizer = toy_tokenizer()
    rows = [{name: values[row] for name, values in DATA.items()} for row in range(12)]
    for data in (DATA, rows, Dataset.from_list(rows)):
        found = as_rows(data, tokenizer)  # type: ignore[arg-type]
        assert isinstance(found, PromptRows) and len(found) == 12
        # red green blue are 3 4 5, a and b 6 7
        assert found[4] == {"input_ids": [4, 6, 7], "index": 4, "prompt": "green a b", "colour": 1}
    assert as_rows(found, tokenizer) is found


def test_tokens_that_are_there_are_kept_and_conversations_go_through_the_template() -> None:
    tokenizer = toy_tokenizer()
    assert as_rows({"input_ids": [[3], [4, 6]], "index": [5, 5]}, tokenizer)[1] == {"input_ids": [4, 6], "index": 1}
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}f{% endif %}"
    )
    chat = [[{"role": "user", "content": "red a"}], [{"role": "user", "content": "b"}]]
    assert as_rows({"prompt": chat}, tokenizer).input_ids == [[3, 6, 11], [7, 11]]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("red", r"type str.*\[TRAINING-023\]"),
        ({"prompt": ["red"], "colour": [1, 2]}, r"prompt \(1\), colour \(2\).*\[TRAINING-024\]"),
        ({"text": ["red"]}, r"columns text \(1\).*\[TRAINING-024\]"),
        ([], r"columns none.*\[TRAINING-024\]"),
        ({"prompt": ["red", None]}, r"type NoneType.*\[TRAINING-025\]"),
        ({"prompt": ["red", "red a b"]}, r"of 3 tokens in row 1.*at most 2.*\[TRAINING-026\]"),
    ],
)
def test_data_that_cannot_be_read_are_refused(data: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        as_rows(data, toy_tokenizer(), longest=2)


def test_columns_of_words_or_of_several_lengths_reach_rewards_as_lists() -> None:
    columns = {"word": ["x", "y"], "pair": [[1.0, 2.0], [3.0, 4.0]], "ragged": [[1], [1, 2]], "maybe": [1, None]}
    batch = PromptCollator(toy_tokenizer())(list(PromptRows([[3], [4]], columns)))
    assert (batch["word"], batch["ragged"], batch["maybe"]) == (["x", "y"], [[1], [1, 2]], [1, None])
    assert batch["pair"].tolist() == columns["pair"] and batch["index"].tolist() == [0, 1]


# ---------------------------------------------------------------- the trainer


def test_a_training_logs_each_function_and_learns_from_the_weighted_sum(tmp_path: Path) -> None:
    trainer = make(tmp_path, [closeness, largest], reward_weights=[1.0, 0.25], num_train_epochs=10)
    before = trainer.evaluate(DATA)
    trainer.train()
    log = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert log["reward"] == pytest.approx(
        log["rewards/closeness/mean"] + 0.25 * log["rewards/largest/mean"], abs=1e-6
    )  # fmt: skip
    assert log["rewards/closeness/std"] > 0 and log["rewards/largest/std"] > 0
    assert trainer.evaluate(DATA)["eval_rewards/closeness/mean"] > before["eval_rewards/closeness/mean"] + 0.05


def test_evaluation_reports_what_the_weights_of_the_policy_earn(tmp_path: Path) -> None:
    data = Dataset.from_dict({"prompt": ["blue b", "red a b", "green"], "colour": [2, 0, 1]})
    trainer = make(tmp_path, [closeness, first], eval_dataset=data, per_device_eval_batch_size=2)
    weights = torch.from_numpy(trainer.predict(data).predictions).softmax(-1)
    earned = torch.stack(
        [closeness(weights[row][None, None], torch.tensor([c]))[0, 0] for row, c in ((0, 2), (1, 0), (2, 1))]
    )
    found = trainer.evaluate()
    assert found["eval_rewards/closeness/mean"] == pytest.approx(earned.mean().item(), abs=1e-6)
    assert found["eval_rewards/closeness/std"] == pytest.approx(earned.std(correction=0).item(), abs=1e-6)
    assert found["eval_reward"] == found["eval_rewards/closeness/mean"]
    assert not any("first" in name for name in found)  # it knows the rows of training by their numbers
    other = make(tmp_path, closeness, eval_dataset={"one": data, "two": data}, eval_reward_funcs=first)
    assert set(other.evaluate()) >= {"eval_one_rewards/first/mean", "eval_two_rewards/first/mean"}
    silent = make(tmp_path, closeness, eval_dataset=data, eval_reward_funcs=[])
    assert not any("reward" in name for name in silent.evaluate())


def test_the_last_samples_are_written_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make(
        tmp_path, [closeness, largest], log_completions=True, num_completions_to_print=2, num_generations=3,
        logging_steps=3, beta=0.0,
    )  # fmt: skip
    trainer.model.config.id2label = dict(enumerate("ABC"))  # type: ignore[union-attr]
    trainer.train()
    (path,) = (tmp_path / "completions").iterdir()
    assert path.name == "completions_00003.parquet"
    table = pd.read_parquet(path)
    names = ["step", "prompt", "weight_A", "weight_B", "weight_C", "closeness", "largest", "advantage"]
    assert list(table) == names and len(table) == 4 * 3 and set(table["step"]) == {3}
    assert table[["weight_A", "weight_B", "weight_C"]].sum(axis=1).tolist() == pytest.approx([1.0] * 12, abs=1e-5)
    for row in table.itertuples():
        weights = torch.tensor([[[row.weight_A, row.weight_B, row.weight_C]]])
        colour = torch.tensor([NAMES.index(row.prompt.split()[0])])
        assert row.closeness == pytest.approx(closeness(weights, colour).item(), abs=1e-5)
    assert table.groupby("prompt")["advantage"].sum().abs().max() < 1e-4
    shown = capsys.readouterr().out
    assert "Step 3" in shown and "closeness" in shown and shown.count(" a b") <= 2


def test_without_a_column_of_prompts_the_table_shows_what_the_model_reads(tmp_path: Path) -> None:
    rows = PromptRows([[3, 6], [4, 7], [5, 8], [3, 9]], {})
    make(tmp_path, first, rows, log_completions=True, num_completions_to_print=1).train()
    table = pd.read_parquet(tmp_path / "completions/completions_00001.parquet")
    assert set(table["prompt"]) == {"red a", "green b", "blue c", "red d"}


def test_the_earlier_name_of_the_reward_still_works(tmp_path: Path) -> None:
    trainer = SoftGRPOTrainer(
        toy_encoder(),
        reward=first,
        args=SoftGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to=[], max_steps=1, save_strategy="no"),
        train_dataset=DATA,
        processing_class=toy_tokenizer(),
    )
    trainer.train()
    assert trainer.rewards.names == ["first"]
    with pytest.raises(TypeError, match="needs reward_funcs"):
        SoftGRPOTrainer(toy_encoder(), train_dataset=DATA, processing_class=toy_tokenizer())
