"""What is added to deployments that `prefect deploy` has registered: schedules, choices, checks of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from softgrpo.flows.pipeline import softgrpo_flow
from softgrpo.flows.services.registration import DEPLOYMENTS_FILE, deployment_names, form_schema, missing_schedules
from softgrpo.flows.tune import tune_flow
from softgrpo.flows.variants import ablate_flow, multi_recaller_flow

WEEKLY = {"slug": "weekly", "cron": "0 3 * * 1", "timezone": "UTC", "active": False}
NIGHTLY = {"slug": "nightly", "cron": "0 5 * * *", "timezone": "UTC", "active": False}
EARLIER = {"slug": "nightly", "cron": "0 4 * * *", "timezone": "UTC", "active": False}
FLOWS = (softgrpo_flow, multi_recaller_flow, ablate_flow, tune_flow)


def present(slug: str | None, cron: str, *, active: bool) -> dict[str, Any]:
    """Returns a schedule as the server gives it."""
    return {"slug": slug, "active": active, "schedule": {"cron": cron, "timezone": "UTC", "day_or": True}}


def test_a_schedule_is_added_where_it_is_missing() -> None:
    added = [{"slug": "weekly", "active": False, "schedule": {"cron": "0 3 * * 1", "timezone": "UTC"}}]
    assert missing_schedules([WEEKLY], []) == added
    assert missing_schedules([WEEKLY], [present(None, "0 4 * * *", active=True)]) == added


@pytest.mark.parametrize(
    "theirs",
    [
        present("weekly", "0 3 * * 1", active=True),  # switched on
        present("weekly", "30 5 * * *", active=True),  # at another time
        present(None, "0 3 * * 1", active=True),  # of an earlier version, which named none
    ],
)
def test_a_schedule_that_is_there_is_left_as_it_is(theirs: dict[str, Any]) -> None:
    assert missing_schedules([WEEKLY], [theirs, present("mine", "0 4 * * *", active=True)]) == []


def test_a_schedule_that_a_user_deleted_stays_deleted() -> None:
    assert missing_schedules([WEEKLY], [], added=["weekly"]) == []
    assert missing_schedules([WEEKLY], [], added=["another"]) != []


def test_no_schedule_stands_where_prefect_would_replace_those_of_users() -> None:
    definitions = yaml.safe_load(Path(DEPLOYMENTS_FILE).read_text(encoding="utf-8"))
    assert definitions["definitions"]["schedules"] == {
        "softgrpo/full": [WEEKLY],
        "softgrpo/refit": [EARLIER],
        "softgrpo/score": [NIGHTLY],
    }
    assert [each["name"] for each in definitions["deployments"] if "schedules" in each] == []
    names = deployment_names(definitions)
    assert set(definitions["definitions"]["schedules"]) <= set(names)
    assert {name.partition("/")[0] for name in names} == {flow.name for flow in FLOWS}


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: str(flow.name))
def test_a_form_offers_datasets_and_fields_to_fill_in(flow: Any) -> None:
    schema = form_schema(parameter_schema(flow).model_dump(exclude_unset=True), ["steam", "ml-1m"])
    dataset = schema["properties"]["dataset"]
    assert [kind.get("enum") for kind in dataset["anyOf"]] == [["ml-100k", "ml-1m", "steam"], None]
    assert schema["properties"]["data_path"].get("type") == "string"
    assert schema["definitions"]["FrequentSettings"]["properties"]["k"]["type"] == "integer"
    assert schema["properties"]["frequent"]["$ref"] == "#/definitions/FrequentSettings"
    assert "anyOf" in schema["properties"]["overrides"]  # a mapping that is drawn empty would be sent empty


ALLOWED: list[dict[str, Any]] = [
    {},
    {"dataset": "unheard-of", "data_path": "/data"},
    {"recallers": ["bpr", "ItemKNN"], "overrides": None, "force": None},
    {"overrides": {"sft.learning_rate": 1, "seed": 2, "sft": {"num_train_epochs": 1}, "recall.settings.BPR.epochs": 1}},
    {"recallers": ["BPR", "Mine"], "overrides": {"recall.files.Mine": "mine.parquet"}},
    {"recallers": ["SASRecc"], "overrides": {"sft.learning": 1}},  # the flow refuses them, and names the nearest
    {"frequent": {"k": 20, "merge_method": "quota"}},
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"frequent": {"k": 0}}, r"'frequent\.k'.*less than the minimum of 1"),
    ({"frequent": {"sft_learning_rate": 0}}, r"'frequent\.sft_learning_rate'"),
    ({"frequent": {"merge_method": "sum"}}, r"'sum' is not one of \['auto', 'score', 'quota', 'rrf'\]"),
    ({"frequent": {"epochs": 1}}, "'epochs' was unexpected"),
    ({"size": "enormous"}, "'enormous' is not one of"),
]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The schema of the form of the whole pipeline."""
    return form_schema(parameter_schema(softgrpo_flow).model_dump(exclude_unset=True), ["ml-1m"])


@pytest.mark.parametrize("parameters", ALLOWED)
def test_the_server_takes(parameters: dict[str, Any], schema: dict[str, Any]) -> None:
    """Prefect's own check, by which the server decides when a run is created."""
    assert validate(parameters, schema, raise_on_error=True, ignore_required=True) == []


@pytest.mark.parametrize(("parameters", "message"), REFUSED)
def test_the_server_refuses(parameters: dict[str, Any], message: str, schema: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=message):
        validate(parameters, schema, raise_on_error=True, ignore_required=True)


def test_the_form_of_scoring_offers_datasets_too() -> None:
    from softgrpo.flows.score import score_flow

    schema = form_schema(parameter_schema(score_flow).model_dump(exclude_unset=True), ["shop"])
    assert [kind.get("enum") for kind in schema["properties"]["dataset"]["anyOf"]] == [["ml-100k", "shop"], None]
    assert (schema["properties"]["k"]["type"], schema["properties"]["history"]["type"]) == ("integer", "string")
    assert validate({"k": 5, "run": "abc", "fresh": True}, schema, raise_on_error=True, ignore_required=True) == []


def test_the_form_of_a_refit_offers_datasets_too() -> None:
    from softgrpo.flows.refit import refit_flow

    schema = form_schema(parameter_schema(refit_flow).model_dump(exclude_unset=True), ["shop"])
    assert [kind.get("enum") for kind in schema["properties"]["dataset"]["anyOf"]] == [["ml-100k", "shop"], None]
    kinds = [schema["properties"][name]["type"] for name in ("run", "data_path", "parallel")]
    assert kinds == ["string", "string", "integer"]
    assert validate({"run": "abc", "parallel": 2}, schema, raise_on_error=True, ignore_required=True) == []
    with pytest.raises(ValidationError, match="Validation failed for field 'parallel'"):
        validate({"parallel": "two"}, schema, raise_on_error=True, ignore_required=True)
