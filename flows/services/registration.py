"""What `prefect deploy` cannot do for a deployment: add schedules without replacing those of users, and offer the datasets.

`make deploy` calls it, and docker/setup.sh runs it as a program. It asks Prefect's server by HTTP, because Prefect's own client
takes seconds to import.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import requests
import yaml
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from softgrpo.common.paths import DEPLOYMENTS
from softgrpo.config import DataConfig
from softgrpo.data.locate import known_datasets
from softgrpo.errors import ConfigError, SoftGRPOError, StoreError
from softgrpo.flows.runtime.failures import FAILED, OK
from softgrpo.tasks.servers.prefect_api import open_session

DEPLOYMENTS_FILE = DEPLOYMENTS / "prefect.yaml"
TIMEOUT_SECONDS = 30.0
MESSAGE_CHARACTERS = 500
ADDED_SLUGS = "softgrpo_schedules_added"
"""The variable of Prefect's server that keeps a schedule which a user deleted from being added again."""
FLOWS = {
    "softgrpo.flows.pipeline:softgrpo_flow": "softgrpo",
    "softgrpo.flows.variants:multi_recaller_flow": "multi-recaller",
    "softgrpo.flows.variants:ablate_flow": "ablate",
    "softgrpo.flows.tune:tune_flow": "tune",
    "softgrpo.flows.score:score_flow": "softgrpo",
    "softgrpo.flows.refit:refit_flow": "softgrpo",
}
"""The name of each flow by its entrypoint; importing them to ask would take seconds."""


class _Server:
    """Prefect's server, asked by HTTP.

    Args:
        api: Address of its interface.
        login: `user:password` where it asks for them; None takes PREFECT_API_AUTH_STRING.

    Raises:
        StoreError: The server does not answer, or refuses.
    """

    def __init__(self, api: str, login: str | None) -> None:
        self._api = api
        # 503: its database is busy and it asks to be asked again; Prefect's own clients do the same
        retry = Retry(total=8, connect=8, status_forcelist=[503], allowed_methods=None, backoff_factor=0.5)
        self._session = open_session(api, login)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Returns the answer to a request.

        Raises:
            StoreError: The server does not answer, or refuses.
        """
        rule, remedy = "Prefect's server must take the deployments", "Look into its log"
        try:
            answer = self._session.request(method, f"{self._api}/{path}", json=body, timeout=TIMEOUT_SECONDS)
        except requests.RequestException as error:
            raise StoreError(f"{method} {self._api}/{path}: {error}", rule, remedy, code="STORE-018") from error
        if not answer.ok:
            message = answer.text[:MESSAGE_CHARACTERS]
            raise StoreError(
                f"{method} {self._api}/{path}: {answer.status_code} {message}", rule, remedy, code="STORE-019"
            )
        return answer.json() if answer.content else None


def deployment_names(definitions: Mapping[str, Any]) -> list[str]:
    """Returns the full name of each deployment, such as `softgrpo/full`.

    Args:
        definitions: What deployments/prefect.yaml holds.
    """
    return [f"{FLOWS[each['entrypoint']]}/{each['name']}" for each in definitions["deployments"]]


def missing_schedules(
    ours: Sequence[Mapping[str, Any]], present: Sequence[Mapping[str, Any]], added: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Returns the schedules that a deployment lacks, as the server takes them.

    One that is there stays as it is, whatever a user has made of its times or its switch, and one that a user deleted stays
    deleted. One without a slug that has the same times is ours too: earlier versions gave theirs none.

    Args:
        ours: `slug`, `cron`, `timezone` and `active` of each that it should have.
        present: Those that it has, as the server gives them.
        added: The slugs of those that it was once given.
    """
    slugs = {*added, *(schedule["slug"] for schedule in present)}
    times = {(schedule["schedule"].get("cron"), schedule["schedule"].get("timezone")) for schedule in present}
    return [
        {
            "slug": schedule["slug"],
            "active": schedule["active"],
            "schedule": {"cron": schedule["cron"], "timezone": schedule["timezone"]},
        }
        for schedule in ours
        if schedule["slug"] not in slugs and (schedule["cron"], schedule["timezone"]) not in times
    ]


def form_schema(schema: Mapping[str, Any], datasets: Iterable[str]) -> dict[str, Any]:
    """Returns the schema that a deployment's form is drawn from, and by which the server checks the parameters of a new run.

    The field `dataset` offers names to choose from, and takes any other. A text, a number or a group that may be left out is a
    field to fill in: drawn from `anyOf` with null, it would be a switch that people must find first.

    Names of recallers and of settings are not checked here: the server would answer with a list or a pattern of all of them. The
    flow refuses an unknown one in its first seconds, and names the nearest.

    Args:
        schema: The schema of a deployment's parameters.
        datasets: The names.
    """
    properties = {name: _fillable(field) for name, field in schema["properties"].items()}
    dataset = {key: value for key, value in properties["dataset"].items() if key not in ("type", "anyOf")}
    names = sorted({*datasets, dataset["default"]})
    dataset["anyOf"] = [
        {"type": "string", "enum": names, "title": "found here"},
        {"type": "string", "title": "another"},
    ]
    definitions = {
        name: definition
        | {"properties": {key: _fillable(field) for key, field in definition.get("properties", {}).items()}}
        for name, definition in schema.get("definitions", {}).items()
    }
    return {**schema, "properties": properties | {"dataset": dataset}, "definitions": definitions}


def _fillable(field: dict[str, Any]) -> dict[str, Any]:
    """Returns a field whose value may be null as one that may be left empty; lists and mappings stay as they are."""
    kinds: list[dict[str, Any]] = [kind for kind in field.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1 or kinds[0].get("type") in ("array", "object") or field.get("default") is not None:
        return field
    return {key: value for key, value in field.items() if key not in ("anyOf", "default")} | kinds[0]


def complete(api: str, datasets: Iterable[str], login: str | None = None) -> None:
    """Gives all registered deployments the schedules that they never had, and their forms the datasets to choose from.

    Args:
        api: Address of Prefect's API.
        datasets: Names of the datasets that the worker finds.
        login: `user:password` where the server asks for them; None takes PREFECT_API_AUTH_STRING.

    Raises:
        StoreError: The server does not answer, or refuses.
    """
    definitions = yaml.safe_load(DEPLOYMENTS_FILE.read_text(encoding="utf-8"))
    names, server = list(datasets), _Server(api, login)
    added = _read_added_slugs(server)
    for name in deployment_names(definitions):
        deployment = server.ask("GET", f"deployments/name/{name}")
        key = deployment["id"]
        schema = form_schema(deployment["parameter_openapi_schema"], names)
        server.ask("PATCH", f"deployments/{key}", {"parameter_openapi_schema": schema})
        if not (ours := definitions["definitions"]["schedules"].get(name, [])):
            continue
        if schedules := missing_schedules(ours, deployment["schedules"], added.get(key, [])):
            server.ask("POST", f"deployments/{key}/schedules", schedules)
        if (slugs := sorted({*added.get(key, []), *(schedule["slug"] for schedule in ours)})) != added.get(key):
            added[key] = slugs
            _write_added_slugs(server, added)


def _read_added_slugs(server: _Server) -> dict[str, list[str]]:
    """Returns the slugs of the schedules that each deployment was ever given, by its id."""
    stored = server.ask("POST", "variables/filter", {"variables": {"name": {"any_": [ADDED_SLUGS]}}})
    return dict(stored[0]["value"]) if stored else {}


def _write_added_slugs(server: _Server, slugs: Mapping[str, list[str]]) -> None:
    """Stores them as a variable of Prefect's server: what a deployment itself holds is replaced when it is registered."""
    stored = server.ask("POST", "variables/filter", {"variables": {"name": {"any_": [ADDED_SLUGS]}}})
    if stored:
        server.ask("PATCH", f"variables/{stored[0]['id']}", {"value": slugs})
    else:
        server.ask("POST", "variables/", {"name": ADDED_SLUGS, "value": slugs})


def main() -> int:
    """Runs `python -m softgrpo.flows.services.registration` where PREFECT_API_URL names the server."""
    try:
        if not (api := os.environ.get("PREFECT_API_URL")):
            raise ConfigError(
                "PREFECT_API_URL is not set",
                "It names Prefect's server",
                "Set it, or use softgrpo deploy",
                code="CONFIG-039",
            )
        complete(api, known_datasets(DataConfig()))
    except SoftGRPOError as error:
        print(f"softgrpo: {error}", file=sys.stderr)
        return FAILED
    return OK


if __name__ == "__main__":
    sys.exit(main())
