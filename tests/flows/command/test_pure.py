"""`softgrpo pure`: the original commands mean what they say."""

from __future__ import annotations

import pytest

import softgrpo.flows.cli as cli
from softgrpo.presets import resolve
from tests.flows.command.conftest import Captured

ORIGINAL = "--dataset ml-1m --recbole_models BPR SASRec"
SFT = "--model_name Qwen/Qwen2.5-0.5B-Instruct --per_device_train_batch_size 4 --learning_rate 5e-5 --num_train_epochs 3 --bf16"
GRPO = "--tau_gumbel 1.0 --top_p 0.9 --epsilon 0.2 --beta 0.01 --num_generations 4 --grpo_lr 1e-6 --bf16"


@pytest.mark.parametrize(
    ("command", "until"),
    [
        (f"{ORIGINAL} --gen_sft_data --seed 42", "data"),
        (f"{ORIGINAL} --do_sft {SFT}", "sft"),
        (f"{ORIGINAL} --do_grpo {GRPO}", "grpo"),
        (f"{ORIGINAL} --do_test --bf16", "test"),
    ],
)
def test_the_four_original_commands(command: str, until: str, captured: Captured) -> None:
    assert cli.main(["pure", *command.split()]) == 0
    assert captured.until == until
    assert not captured.standalone
    # Each command leads to one and the same experiment, so that each goes on from where the one before it ended;
    # the first leaves out --bf16, which the stages up to `data` do not know.
    published = {"grpo.noise": "independent", "grpo.noise_scale": 1.0, "grpo.top_p": 0.9}
    assert captured.config == resolve("ml-1m", "small", overrides={"train.bf16": "--bf16" in command, **published})


def test_pure_takes_another_noise_scale_where_it_is_named(captured: Captured) -> None:
    cli.main(["pure", "--do_grpo", "--grpo.noise_scale", "0.5"])
    assert captured.config.grpo.noise_scale == 0.5


def test_pure_runs_up_to_the_last_stage_asked_for(captured: Captured) -> None:
    cli.main(["pure", "--gen-sft-data", "--do_grpo", "--do-sft"])
    assert captured.until == "grpo"
