"""Ablations: every one is a choice of configurations that differ from the reference in what they name, and in nothing else."""

from __future__ import annotations

from typing import get_args

import pytest

from softgrpo.errors import ConfigError
from softgrpo.flows.variants import Ablation
from softgrpo.pipeline.keys import stage_key
from softgrpo.pipeline.plan import plan
from softgrpo.presets import resolve
from softgrpo.presets.ablations import ABLATIONS, REFERENCE, resolve_ablation
from softgrpo.presets.changes import difference


def test_the_form_offers_every_ablation() -> None:
    assert get_args(Ablation) == tuple(ABLATIONS)


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("stage", ["full", "debug"])
def test_variants_differ_from_the_reference_in_what_they_name(name: str, stage: str) -> None:
    said = {"seed": 7}
    configs = resolve_ablation(name, "ml-100k", "tiny", stage, said)
    base = configs.pop(REFERENCE)
    assert base == resolve("ml-100k", "tiny", stage, said)
    assert configs, "an ablation that changes nothing"
    for variant, config in configs.items():
        assert set(difference(config, base)) == {
            path
            for path, value in ABLATIONS[name][variant].items()
            if difference(resolve("ml-100k", "tiny", stage, {**said, path: value}), base)
        }
    assert len({config.model_dump_json() for config in (base, *configs.values())}) == len(configs) + 1


def test_a_variant_that_is_the_reference_is_left_out() -> None:
    assert list(resolve_ablation("ratio", "ml-100k", "tiny")) == [REFERENCE, "importance_ratio concrete"]
    turned = resolve_ablation("ratio", "ml-100k", "tiny", overrides={"grpo.importance_ratio": "concrete"})
    assert list(turned) == [REFERENCE, "importance_ratio noise"]


def test_variants_of_soft_grpo_share_all_that_comes_before_it() -> None:
    def keys(name: str, node: str) -> set[str]:
        configs = resolve_ablation(name, "ml-100k", "tiny").values()
        return {
            stage_key(each, config, dict.fromkeys(each.upstream, "0"))
            for config in configs
            for each in plan(config)
            if each.name == node
        }

    assert len(keys("tau", "sft")) == len(keys("tau", "data")) == 1 and len(keys("tau", "grpo")) == 3
    assert len(keys("merge", "recall-EASE")) == 1 and len(keys("merge", "data")) == 4


def test_an_unknown_ablation_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'prior'"):
        resolve_ablation("priors", "ml-100k", "tiny")


def test_an_ablation_of_a_setting_that_is_off_already_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to compare"):
        resolve_ablation("prior", "ml-100k", "tiny", overrides={"policy.prior": "none"})


def test_cross_fitting_is_a_variant_where_the_run_allows_it() -> None:
    learning = resolve_ablation("learning", "ml-100k", "tiny")
    assert learning["cross_fit 2"].split.cross_fit == 2
    assert not learning["cross_fit 2"].tells_record and not learning["record off"].tells_record
    for overrides in ({"features.user_vector": True}, {"split.method": "global_time"}):
        assert "cross_fit 2" not in resolve_ablation("learning", "ml-100k", "tiny", overrides=overrides)


def test_cross_fitting_shares_the_split_and_the_recallers_of_the_reference() -> None:
    configs = resolve_ablation("learning", "ml-100k", "tiny")
    keys = [
        {node.name: stage_key(node, configs[name], dict.fromkeys(node.upstream, "0")) for node in plan(configs[name])}
        for name in (REFERENCE, "cross_fit 2")
    ]
    shared = ("split", "embed", "recall-SASRec", "recall-EASE", "recall-Text")
    assert all(keys[0][name] == keys[1][name] for name in shared) and keys[0]["data"] != keys[1]["data"]
