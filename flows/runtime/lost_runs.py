"""Flow runs whose process was killed: such a process cannot tell Prefect that it ended, so the next run or `make stop` does.

Each flow run holds a liveness lock in its output folder, as runs of MLflow do; a label of the flow run names the lock's file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.runtime import flow_run
from prefect.states import Crashed

from softgrpo.common.paths import stages_folder
from softgrpo.flows.runtime.environment import check_writable
from softgrpo.pipeline.store import LocalStore
from softgrpo.tasks.tracking.liveness import LivenessLocks

LABEL = "softgrpo.sign_of_life"
MESSAGE = "The process of this run was killed. The same run goes on from its finished stages."
RUNNING = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))


@contextmanager
def mark_alive(output: Path) -> Iterator[None]:
    """Holds a liveness lock for this flow run until the block ends; marks runs that were lost before as Crashed.

    Args:
        output: Folder of all that the run writes.

    Raises:
        StoreError: The folder cannot be written.
    """
    check_writable(output)
    locks = LivenessLocks.of(LocalStore(stages_folder(output)))
    with locks.hold() as lock:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(flow_run.id, {LABEL: str(locks.folder / lock)})
            end_lost(client)
        try:
            yield
        finally:
            locks.remove(lock)


def end_lost(client: SyncPrefectClient) -> list[FlowRun]:
    """Marks runs as Crashed that say they are running although their process is gone, and returns them.

    Runs of other machines, whose locks are not found here, stay as they are.

    Args:
        client: Of the server that is asked.
    """
    lost = [run for run in client.read_flow_runs(flow_run_filter=RUNNING) if _is_lost(run)]
    for run in lost:
        client.set_flow_run_state(run.id, Crashed(message=MESSAGE), force=True)
        locks, lock = _lock_of(run)
        locks.remove(lock)
    return lost


def _is_lost(run: FlowRun) -> bool:
    if LABEL not in run.labels:
        return False
    locks, lock = _lock_of(run)
    return locks.is_dead(lock)


def _lock_of(run: FlowRun) -> tuple[LivenessLocks, str]:
    path = Path(str(run.labels[LABEL]))
    return LivenessLocks(path.parent), path.name
