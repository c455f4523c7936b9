"""What is searched, what makes two studies the same, and what counts of a training."""

from __future__ import annotations

import json

import pytest

from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError
from softgrpo.pipeline.tuning import SearchSpace, plan_study, study_name, validation_ndcg, with_values
from softgrpo.presets import resolve, size_names
from softgrpo.reporting import BEST_METRIC
from tests.support.fake_groups import FakeGroups


@pytest.mark.parametrize("size", size_names())
def test_the_search_can_start_from_every_preset(size: str) -> None:
    config = resolve("ml-100k", size)
    values = SearchSpace().start(config)
    usual = {"learning_rate", "tau_gumbel", "top_p", "epsilon", "beta", "noise_scale", "reward_k"}
    assert set(values) == (usual if config.policy.numbers == "none" else usual | {"head_learning_rate"})
    assert values["noise_scale"] == config.grpo.noise_scale
    assert values["reward_k"] == (config.grpo.reward_k or config.fusion.k)


def test_null_starts_at_what_it_stands_for() -> None:
    tiny = resolve(
        "ml-100k", "tiny", overrides={"fusion.k": 20, "grpo.reward_k": None, "grpo.head_learning_rate": None}
    )
    assert (tiny.grpo.reward_k, tiny.grpo.head_learning_rate) == (None, None)
    values = SearchSpace().start(tiny)
    assert values["reward_k"] == 20 and isinstance(values["reward_k"], int)
    assert values["head_learning_rate"] == 3e-3
    tried = with_values(tiny, values)
    assert tried.grpo.reward_k == 20 and tried.grpo.head_learning_rate == 3e-3


@pytest.mark.parametrize(
    ("overrides", "left_out"),
    [
        ({"grpo.sampling": "discrete"}, {"tau_gumbel", "noise_scale"}),
        ({"grpo.reward": "log_probability"}, {"reward_k"}),
        ({"policy.numbers": "none"}, {"head_learning_rate"}),
        ({"labels.kind": "gate"}, {"noise_scale", "reward_k"}),  # the teacher learns from the same rewards
        ({"policy.prior": "gate"}, {"noise_scale", "reward_k"}),
    ],
)
def test_what_changes_nothing_or_what_comes_before_is_not_searched(
    overrides: dict[str, str], left_out: set[str]
) -> None:
    base, config = resolve("ml-100k", "tiny"), resolve("ml-100k", "tiny", overrides=overrides)
    space = SearchSpace()
    assert set(space.ranges(base)) - set(space.ranges(config)) == left_out


def test_no_deeper_reward_is_tried_than_the_lists_are() -> None:
    config = resolve("ml-100k", "tiny", overrides={"recall.depth": 20, "evaluation.ks": [5]})
    assert SearchSpace().ranges(config)["reward_k"].high == 20


def test_a_study_is_known_by_all_that_decides_its_numbers() -> None:
    fakes, space = FakeGroups(), SearchSpace()

    def name(config: ExperimentConfig, space: SearchSpace = space) -> str:
        return study_name(fakes.plan(config, "grpo"), config, space)

    base = resolve("ml-100k", "tiny")
    assert name(base).startswith("ml-100k-tiny-SASRec_EASE_Text-")
    assert name(with_values(base, {"learning_rate": 1e-6, "top_p": 0.5})) == name(base)
    for changes in ({"sft.learning_rate": 1e-3}, {"grpo.num_generations": 8}, {"recall.recallers": ["BPR", "Pop"]}):
        assert name(resolve("ml-100k", "tiny", overrides=changes)) != name(base)
    assert name(base, space.model_copy(update={"top_p": space.top_p.model_copy(update={"low": 0.6})})) != name(base)


def test_the_starting_point_does_not_count() -> None:
    drawn = {BEST_METRIC: {"step": [0.0, 5.0, 10.0], "value": [0.9, 0.2, 0.3]}, "loss": {"step": [0.0], "value": [1.0]}}
    assert validation_ndcg(json.loads(json.dumps(drawn))) == {5: 0.2, 10: 0.3}


def test_tried_values_have_four_digits_and_change_nothing_else() -> None:
    base = resolve("ml-100k", "tiny")
    tried = with_values(base, {"learning_rate": 1.23456e-5, "beta": 0.0999996})
    assert (tried.grpo.learning_rate, tried.grpo.beta) == (1.235e-05, 0.1)
    assert with_values(tried, base.grpo.model_dump(include={"learning_rate", "beta"})) == base


def test_a_start_outside_the_ranges_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"grpo.tau_gumbel = 9. The search starts there, so it must lie in 0.25 to 4"):
        plan_study("ml-100k", "tiny", "full", {"grpo.tau_gumbel": 9}, 1, SearchSpace())


def test_trials_that_do_not_train_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_train_epochs = 0"):
        plan_study("ml-100k", "tiny", "full", {"grpo.num_train_epochs": 0}, 2, SearchSpace())
