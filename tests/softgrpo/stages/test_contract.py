from __future__ import annotations

from collections.abc import Collection

import pytest

from softgrpo.pipeline import costs
from softgrpo.pipeline.plan import plan
from softgrpo.presets import resolve
from softgrpo.stages.catalogue import EVERY
from softgrpo.stages.contract import ALL_STAGES, LANGUAGE_MODEL_STAGES, POLICY_STAGES, STAGES
from softgrpo.tasks.tracking import descriptions


def test_stages_of_the_pipeline_in_their_order() -> None:
    assert ("split", "embed", *STAGES) == ALL_STAGES
    with_text = plan(resolve("ml-100k", "tiny", overrides={"recall.recallers": ["Pop", "Text"]}))
    assert tuple(dict.fromkeys(node.stage.name for node in with_text)) == ALL_STAGES
    without = plan(resolve("ml-100k", "tiny", overrides={"recall.recallers": ["Pop", "EASE"]}))
    assert "embed" not in {node.stage.name for node in without}
    assert {*POLICY_STAGES} < {*LANGUAGE_MODEL_STAGES} < {*STAGES}


def test_a_policy_is_trained_without_the_stage_gates() -> None:
    """Neither stage reads it, and a change of `evaluation.baselines` must not train a policy anew."""
    gates = {"policy.prior": "gate", "labels.kind": "gate"}
    config = resolve("ml-100k", "tiny", overrides={"recall.recallers": ["Pop", "EASE"], **gates})
    made = {until: [node.name for node in plan(config, until)] for until in STAGES}
    before = ["split", "recall-Pop", "recall-EASE", "data", "check"]
    assert made["gates"] == [*before, "gates"]
    assert made["sft"] == [*before, "sft"] and made["grpo"] == [*before, "sft", "grpo"]
    assert made["test"] == [*before, "gates", "sft", "grpo", "test"]
    upstream = {node.name: node.upstream for node in plan(config)}
    assert upstream["gates"] == ("split", "data") and "gates" in upstream["test"]


@pytest.mark.parametrize(
    "stages",
    [{stage.name for stage in EVERY}, costs.START_SECONDS, costs.WINDOW_SECONDS, descriptions.STAGES],
    ids=["catalogue", "start", "per window", "descriptions"],
)
def test_what_is_said_of_stages_is_said_of_every_stage(stages: Collection[str]) -> None:
    assert set(stages) == set(ALL_STAGES)
