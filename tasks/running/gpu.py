"""One stage at a time on a machine's GPU: Prefect's server grants the slot. Stages on the CPU run on beside it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from softgrpo.common.names import TEXT, recaller_and_fold
from softgrpo.config import ExperimentConfig
from softgrpo.errors import StoreError
from softgrpo.recallers.plugins import plugin_names
from softgrpo.stages.contract import LANGUAGE_MODEL_STAGES, Node
from softgrpo.tasks.servers.prefect_api import open_session

LANGUAGE_MODELS = frozenset({"embed", *LANGUAGE_MODEL_STAGES})
TIMEOUT_SECONDS = 30.0
MESSAGE_CHARACTERS = 500
LEASE_SECONDS = 60.0  # the holder renews it; after `kill -9` the slot is free again this much later


def slot_name() -> str:
    """Returns the name of this machine's limit at Prefect's server, which may serve several machines."""
    return f"gpu-{socket.gethostname()}"


def make_limit(api: str, credentials: str | None = None) -> None:
    """Lets one stage at a time use this machine's GPU; a limit that exists already is kept.

    Args:
        api: Address of Prefect's API.
        credentials: `user:password`, where the server asks for one.

    Raises:
        StoreError: The server refuses.
    """
    limits = f"{api}/v2/concurrency_limits/"
    with open_session(api, credentials) as session:
        answer = session.get(limits + slot_name(), timeout=TIMEOUT_SECONDS)
        if answer.status_code == requests.codes.not_found:
            answer = session.post(limits, json={"name": slot_name(), "limit": 1}, timeout=TIMEOUT_SECONDS)
    if not answer.ok:
        raise StoreError(
            f"concurrency limit '{slot_name()}': {answer.status_code} {answer.text[:MESSAGE_CHARACTERS]}",
            "Prefect's server keeps the limit of one stage on the GPU",
            "Look into the log of Prefect's server",
            code="STORE-028",
        )


def uses_gpu(node: Node, config: ExperimentConfig) -> bool:
    """Tells whether a stage computes on a GPU: the settings let it, and there is one."""
    if node.stage.name == "recall":
        recaller, _ = recaller_and_fold(node.variant)
        allowed = not {node.variant, recaller} & {*config.recall.files, TEXT, *plugin_names()} and bool(
            config.recall.settings_of(recaller).get("use_gpu", True)
        )
    else:
        allowed = node.stage.name in LANGUAGE_MODELS and config.train.device != "cpu"
    if not allowed:
        return False
    import torch  # seconds that a run which reuses everything need not wait for

    return torch.cuda.is_available()


@contextmanager
def gpu_slot(node: Node, config: ExperimentConfig) -> Iterator[None]:
    """Waits until a stage may use the GPU, and keeps others off it until the block ends.

    A stage that stays on the CPU does not wait, nor does any stage where the server knows no limit for this machine (`make deploy`
    makes it).
    """
    if not uses_gpu(node, config) or not _is_limited():
        yield
        return
    get_run_logger().info("%s: asks for the GPU (%s)", node.name, slot_name())
    with concurrency(slot_name(), lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False):
        yield


def _is_limited() -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(slot_name())
        except ObjectNotFound:
            return False
    return True
