"""Runs that the worker of the services has started: cancelled as on Prefect's page, before the services end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from prefect.states import Cancelled, Cancelling

from softgrpo.flows.runtime.lost_runs import end_lost

PATIENCE_SECONDS = 5.0
"""How long runs may take to put things in order; what is left ends with the worker."""
REQUEST_SECONDS = 3.0
"""How long the server may take for one answer; it is not asked again."""
WATCHING_SECONDS = 4.5
"""How long `prefect deployment run --watch` takes to see that a run has ended, its last lines and the verdict; the server waits."""
PAUSE_SECONDS = 0.2
AT_WORK = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
MESSAGE = "The services were ended."


def end_runs(address: str, end_worker: Callable[[], object]) -> list[str]:
    """Cancels the runs that the worker is at, and ends the worker.

    Prefect's worker reports a run as cancelled some time after the run's process has ended, and not at all once the worker itself
    has ended; then this function reports it, so that a user who watches a run sees how it ended. Runs whose process was killed are
    marked as Crashed.

    Args:
        address: Of Prefect's server.
        end_worker: Ends the worker, and with it what is left of its runs.

    Returns:
        One sentence for each run, of the worker or of a command that reports to this server.
    """
    bounded = {PREFECT_API_REQUEST_TIMEOUT: REQUEST_SECONDS, PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings({PREFECT_API_URL: address, **bounded}), get_client(sync_client=True) as client:
        lost = end_lost(client)
        at_work = client.read_flow_runs(flow_run_filter=_with_state(AT_WORK))
        top = [run for run in at_work if run.parent_task_run_id is None]
        own = {run.id for run in top if run.deployment_id is not None}
        for each in own:
            client.set_flow_run_state(each, Cancelling(message=MESSAGE))
        left = _wait(own, client.read_flow_run)
        for each in left:
            client.set_flow_run_state(each, Cancelled(message=MESSAGE), force=True)
        ended = time.monotonic()
        end_worker()
        for each in left:  # the worker may have said something else meanwhile
            client.set_flow_run_state(each, Cancelled(message=MESSAGE), force=True)
    if own:
        time.sleep(max(0.0, ended + WATCHING_SECONDS - time.monotonic()))
    return [*map(_lost_sentence, lost), *(_sentence(run.name, own=run.id in own) for run in top)]


def _with_state(types: Sequence[StateType]) -> FlowRunFilter:
    return FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))))


def _wait(waited: set[UUID], read: Callable[[UUID], FlowRun]) -> set[UUID]:
    """Returns the runs that have not ended in time."""
    left, end = waited, time.monotonic() + PATIENCE_SECONDS
    while left and time.monotonic() < end:
        time.sleep(PAUSE_SECONDS)
        left = {each for each in left if (state := read(each).state) is None or not state.is_final()}
    return left


def _lost_sentence(run: FlowRun) -> str:
    return f"Run {run.name} had been killed; it is marked as Crashed. The same run goes on from its finished stages."


def _sentence(name: str, *, own: bool) -> str:
    if own:
        return f"Run {name} was ended (Cancelled). The same run goes on from its finished stages."
    return f"Run {name} was started by a command and has lost its servers: end it with Ctrl-C if it is still at work."
