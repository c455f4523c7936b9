"""What samples earn in training, and that nothing else follows it: windows that teach do, the choice of models does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from softgrpo.algorithm.trl_trainer import SoftGRPOConfig
from softgrpo.common.records import Part
from softgrpo.config import ExperimentConfig
from softgrpo.pipeline.run import LogReporter
from softgrpo.policy.card import PolicyCard
from softgrpo.ranking.rewards import LogProbabilityReward, RankingReward
from softgrpo.stages import grpo as stage
from softgrpo.stages.contract import StageContext
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.teacher import gate_data
from tests.softgrpo.baselines.cases import small_config, small_prepared

WEIGHTS = torch.tensor([[0.8, 0.2], [0.3, 0.7]])


def prepared_with(**grpo: Any) -> Prepared:
    base = small_config()
    config = ExperimentConfig.model_validate(base.model_dump(exclude={"grpo"}) | {"grpo": grpo})
    return small_prepared(config)


def test_a_deeper_reward_lets_more_windows_teach() -> None:
    shallow, deep, dense = (prepared_with(**grpo) for grpo in ({}, {"reward_k": 20}, {"reward": "log_probability"}))
    rows = [each.rewarded_rows() for each in (shallow, deep, dense)]
    assert len(rows[0]) < len(rows[1]) <= len(rows[2])
    assert set(rows[0]) <= set(rows[1]) <= set(rows[2])
    listed = (dense.judged(dense.windows.of(Part.POLICY)).positions >= 0).any(1).numpy()
    assert rows[2].tolist() == dense.windows.of(Part.POLICY)[listed].tolist()


class Recorder:
    """Stands for the trainer and keeps what it is given."""

    def __init__(self, **given: Any) -> None:
        self.given = given


@pytest.mark.parametrize(
    ("grpo", "kind", "k"),
    [
        ({}, RankingReward, 5),
        ({"reward_k": 20}, RankingReward, 20),
        ({"reward": "log_probability"}, LogProbabilityReward, 5),
    ],
)
def test_samples_earn_the_reward_of_the_settings_and_models_are_chosen_by_ndcg(
    grpo: dict[str, Any], kind: type, k: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepared = prepared_with(noise_scale=0.4, noise_scale_end=0.1, **grpo)
    monkeypatch.setattr(stage, "SoftGRPOTrainer", Recorder)
    monkeypatch.setattr(stage, "head_parameters", lambda policy: [])
    monkeypatch.setattr(
        Prepared, "encoded", lambda self, rows, tokenizer: SimpleNamespace(input_ids=[np.array([1])] * len(rows))
    )
    context = StageContext(prepared.config, "", {}, tmp_path, tmp_path, LogReporter("grpo"))
    card = PolicyCard("toy", {}, prepared.config.recall.recallers, 512, "none", None)
    policy: Any = SimpleNamespace(model=None, tokenizer=None, card=card)
    asked = prepared.asked_rows()
    trainer: Any = stage._make_trainer(context, prepared, policy, asked)
    args: SoftGRPOConfig = trainer.given["args"]
    assert (args.noise_scale, args.noise_scale_end) == (0.4, 0.1)

    rows, reward = prepared.rewarded_rows(), trainer.given["reward"]
    index = {"index": torch.arange(len(rows))}
    earned = reward(WEIGHTS.expand(len(rows), -1, -1), index)
    expected = prepared.judged(rows, prepared.fusion.model_copy(update={"k": k}))
    assert type(reward) is kind
    if kind is RankingReward:
        assert torch.equal(earned, expected.ndcg(WEIGHTS).float())

    logits = torch.zeros(len(asked.rows), 2)
    prediction: Any = SimpleNamespace(predictions=logits.numpy(), label_ids=np.arange(len(asked.rows)))
    found = trainer.given["compute_metrics"](prediction)["ndcg_multi"]
    half = prepared.judged(asked.rows).ndcg(torch.tensor([[0.5, 0.5]])).mean().item()
    assert found == pytest.approx(asked.share * half)


def test_networks_learn_by_the_settings_of_soft_grpo() -> None:
    prepared = prepared_with(reward_k=20, noise_scale=0.4)
    data, _ = gate_data(prepared, prepared.rewarded_rows())
    assert (data.noise_scale, data.reward, data.reward_k) == (0.4, "ndcg", 20)
    assert data.valid.fusion.k == 5
