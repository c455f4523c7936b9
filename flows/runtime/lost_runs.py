"""Flow runs whose process was killed: nobody was left to tell Prefect, so that whoever looks next does.

Each run holds a sign of life in its output folder, as runs of MLflow do; a label of the flow run says which.
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

from flows.runtime.environment import check_writable
from softgrpo.common.paths import stages_folder
from softgrpo.pipeline.store import LocalStore
from tasks.tracking.liveness import Signs

LABEL = "softgrpo.sign_of_life"
MESSAGE = "The process of this run was killed. The same run goes on from its finished stages."
RUNNING = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))


@contextmanager
def signed(output: Path) -> Iterator[None]:
    """Lets others see whether the process of this flow run is alive, as long as the block lasts; ends runs that were lost before.

    Args:
        output: Folder of all that the run writes.

    Raises:
        StoreError: The folder cannot be written.
    """
    check_writable(output)
    signs = Signs.of(LocalStore(stages_folder(output)))
    with signs.given() as sign:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(flow_run.id, {LABEL: str(signs.folder / sign)})
            end_lost(client)
        try:
            yield
        finally:
            signs.forget(sign)


def end_lost(client: SyncPrefectClient) -> list[FlowRun]:
    """Marks runs as Crashed that say they are running although their process is gone, and returns them.

    Nothing can be known of runs of other machines, whose sign is not found here; they stay as they are.

    Args:
        client: Of the server that is asked.
    """
    lost = [run for run in client.read_flow_runs(flow_run_filter=RUNNING) if _is_lost(run)]
    for run in lost:
        client.set_flow_run_state(run.id, Crashed(message=MESSAGE), force=True)
        signs, sign = _sign(run)
        signs.forget(sign)
    return lost


def _is_lost(run: FlowRun) -> bool:
    if LABEL not in run.labels:
        return False
    signs, sign = _sign(run)
    return signs.is_dead(sign)


def _sign(run: FlowRun) -> tuple[Signs, str]:
    path = Path(str(run.labels[LABEL]))
    return Signs(path.parent), path.name
