"""The pipeline in one process, without Prefect and MLflow (`softgrpo standalone`), and how one stage is run and committed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from softgrpo.common.artifacts import METRICS, REPORT_PAGE, TABLE
from softgrpo.common.files import make_private
from softgrpo.common.paths import stages_folder
from softgrpo.config import ExperimentConfig
from softgrpo.errors import full_disk_is_readable, lack_of_memory_is_readable
from softgrpo.pipeline.costs import missing
from softgrpo.pipeline.keys import stage_key
from softgrpo.pipeline.plan import check_force, plan
from softgrpo.pipeline.resources import estimate_lines
from softgrpo.pipeline.store import Committed, LocalStore
from softgrpo.pipeline.time_limit import time_limit
from softgrpo.reporting import Reporter
from softgrpo.serving.pure_models import show_model
from softgrpo.stages.contract import COST, Node, StageContext

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a run gives back.

    Attributes:
        table: The comparison table, None when the run ended before the test stage.
        folders: Payload folder of each node of the plan.
        reused: Names of the nodes that were not run again.
        links: Where to look further: label to address or path.
    """

    table: pd.DataFrame | None
    folders: Mapping[str, Path]
    reused: tuple[str, ...]
    links: Mapping[str, str] = field(default_factory=dict)


class LogReporter:
    """A reporter that writes to the standard log."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"softgrpo.{name}")

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Logs one point of each curve, at debug level."""
        self._logger.debug("step %d: %s", step, dict(values))

    def info(self, message: str) -> None:
        """Logs one line."""
        self._logger.info(message)


class CostReporter:
    """Passes everything on to another reporter, and keeps the measured times.

    Args:
        reporter: The other one.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.costs: dict[str, float] = {}

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Takes one point of each curve."""
        self.costs |= {name: value for name, value in values.items() if name.startswith(COST)}
        self._reporter.metrics(values, step)

    def info(self, message: str) -> None:
        """Takes one line for the log."""
        self._reporter.info(message)


def run_node(
    node: Node, config: ExperimentConfig, inputs: Mapping[str, Path], key: str, store: LocalStore, reporter: Reporter
) -> Committed:
    """Runs one stage in a staging folder and commits it; call with the key's lock held.

    The final metrics are stored in the payload as `metrics.json`, measured times beside it, see `LocalStore.keep_costs`.
    """
    timed = CostReporter(reporter)
    memory, time = lack_of_memory_is_readable(node.name), time_limit(config.limits.stage_hours * 3600, node.name)
    with full_disk_is_readable(), memory, store.staging(key) as folder, time:
        context = StageContext(config, node.variant, inputs, folder, store.work(key), timed)
        metrics = node.stage.run(context)
        (folder / METRICS).write_text(json.dumps(metrics, indent=2, sort_keys=True), encoding="utf-8")
        committed = store.commit(key, folder)
        store.keep_costs(key, timed.costs)
        return committed


def local_costs(store: LocalStore, folders: Mapping[str, Path]) -> dict[str, float]:
    """Returns the times that were measured on this machine while stages were made, `<node>/<what>`.

    Args:
        store: Where the stages are.
        folders: Payload of each node in it.
    """
    return {
        f"{node}/{name}": value for node, folder in folders.items() for name, value in store.costs(folder.name).items()
    }


def read_metrics(folder: Path) -> dict[str, float]:
    """Returns the final metrics of a committed stage."""
    metrics: dict[str, float] = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    return metrics


def read_table(folders: Mapping[str, Path]) -> pd.DataFrame | None:
    """Returns the comparison table of a run that reached the test stage."""
    return pd.read_parquet(folders["test"] / TABLE) if "test" in folders else None


def run_standalone(
    config: ExperimentConfig, until: str = "test", force: tuple[str, ...] = (), output: Path = Path("outputs")
) -> RunResult:
    """Runs the pipeline in this process; finished stages are reused from `<output>/stages`.

    Args:
        config: The resolved configuration.
        until: Last stage wanted.
        force: Stages to repeat even if they are stored.
        output: Folder of all that is written.

    Returns:
        Folders, table and what was reused.

    Raises:
        MemoryLimitError: A stage would take more memory than it may, see `softgrpo.pipeline.resources.check_room`.
        StoreError: The files would take more than is free.
    """
    check_force(force)
    make_private(output)
    store = LocalStore(stages_folder(output))
    digests: dict[str, str] = {}
    folders: dict[str, Path] = {}
    reused: list[str] = []
    nodes = plan(config, until)
    for line in estimate_lines(missing(nodes, config, force, store.digest), config, output):
        logger.info(line)
    for node in nodes:
        key = stage_key(node, config, digests)
        with store.lock(key):
            committed = None if node.stage.name in force else store.find(key)
            if committed is None:
                logger.info("stage %s: running (%s)", node.name, key)
                inputs = {name: folders[name] for name in node.upstream}
                committed = run_node(node, config, inputs, key, store, LogReporter(node.name))
            else:
                logger.info("stage %s: reused (%s)", node.name, key)
                reused.append(node.name)
        digests[node.name] = committed.digest
        folders[node.name] = store.payload(key)
        show_model(output, config, node, folders[node.name])
    links = {"report": str(folders["test"] / REPORT_PAGE)} if "test" in folders else {}
    return RunResult(read_table(folders), folders, tuple(reused), links)
