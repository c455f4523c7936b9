"""The pipeline's own MLflow run, which is what people compare: settings, versions, final metrics, links to every stage's run."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

import softgrpo
from softgrpo.config import ExperimentConfig
from softgrpo.identity import library_versions
from softgrpo.local_store import LocalStore
from softgrpo.pipeline import read_metrics
from softgrpo.stages import Node
from tasks.alive import Signs
from tasks.groups import MEMBER, Member
from tasks.registry import register
from tasks.runs import Runs, git_commit
from tasks.stage import Progress
from tasks.store import MODEL_STAGES, ArtifactStore, dataset
from tasks.tracking import EXPERIMENTS, open_tracking, store_errors

REPORT = ("report.html", "report.md", "figures")
"""What is shown with the pipeline's run of the files of a stage that has them."""
UNPREFIXED = "test"  # its metrics keep their names, `<metric>/<method>`; those of other nodes go under the node's name


def open_store(config: ExperimentConfig, output: Path) -> ArtifactStore:
    """Opens MLflow and the folder of finished stages.

    Args:
        config: The resolved configuration; its dataset names the experiment.
        output: Folder of all that is written.

    Raises:
        StoreError: The folder cannot be written, or MLflow does not answer.
    """
    local = LocalStore(output.resolve() / "stages")
    tracking = open_tracking(output, EXPERIMENTS + config.data.dataset, local)
    return ArtifactStore(Runs(tracking, Signs.of(local)), local)


@contextmanager
def pipeline_run(
    store: ArtifactStore, config: ExperimentConfig, nodes: Sequence[Node], name: str, member: Member | None = None
) -> Iterator[str]:
    """Gives the id of the pipeline's run, which carries what is known beforehand.

    Args:
        store: The open store.
        config: The resolved configuration.
        nodes: The plan.
        name: Name of the run.
        member: Makes it a member of a group.
    """
    tags = {"stage": "pipeline", "seed": str(config.seed), "version.python": platform.python_version()}
    libraries = library_versions({library for node in nodes for library in node.stage.libraries})
    tags |= {f"version.{library}": version for library, version in libraries.items()}
    if commit := git_commit(Path(softgrpo.__file__).parent):
        tags[MLFLOW_GIT_COMMIT] = commit
    if member is not None:
        tags[MEMBER] = member.name
    settings = config.model_dump(mode="json")
    runs = store.runs
    runs.end_lost()
    with runs.recorded(name, tags, parent=member.group if member is not None else None) as run_id:
        runs.params(run_id, settings)
        with store_errors(runs.tracking.uri):
            runs.tracking.client.log_text(run_id, yaml.safe_dump(settings, sort_keys=False), "config.yaml")
        yield run_id


def note_nodes(progress: Progress, nodes: Sequence[Node]) -> None:
    """Adds finished nodes to the pipeline's run: links, digest of the data, final metrics, report; and policies to the registry.

    Raises:
        StoreError: MLflow refuses.
    """
    _note_numbers(progress, nodes)
    _note_policies(progress, nodes)
    for node in nodes:
        folder = progress.store.local.payload(progress.references[node.name]["key"])
        _show_report(progress.store.runs, progress.parent_run, folder)


def _note_numbers(progress: Progress, nodes: Sequence[Node]) -> None:
    """Links the runs of nodes, and adds their final metrics."""
    tags = {"reused": " ".join(progress.reused())}
    metrics: dict[str, float] = {}
    for node in nodes:
        reference = progress.references[node.name]
        tags[f"stage_run.{node.name}"] = reference["run_id"]
        if not node.upstream:
            tags["data_digest"] = reference["digest"]
        prefix = "" if node.stage.name == UNPREFIXED else f"{node.name}/"
        found = read_metrics(progress.store.local.payload(reference["key"]))
        metrics |= {f"{prefix}{name}": value for name, value in found.items()}
    progress.store.runs.metrics(progress.parent_run, metrics, tags)


def _note_policies(progress: Progress, nodes: Sequence[Node]) -> None:
    """Notes the data and the policies that were reused and made, and registers those."""
    store, references = progress.store, progress.references
    data = [
        dataset(progress.config.data.dataset, references[node.name]["digest"]) for node in nodes if not node.upstream
    ]
    policies = [node for node in nodes if node.stage.name in MODEL_STAGES]
    reused, made = (
        [references[node.name] for node in policies if (node.name in progress.ran) == ran] for ran in (False, True)
    )
    store.note_used(progress.parent_run, data, reused)
    store.note_made(progress.parent_run, made)
    for node in policies:
        with store.local.lock("registry"):  # of two identical runs at once, one adds the model
            register(store.runs, progress.config, node.stage.name, references[node.name], references["split"]["digest"])


def _show_report(runs: Runs, run_id: str, folder: Path) -> None:
    with store_errors(runs.tracking.uri):
        for path in (folder / name for name in REPORT):
            if path.is_dir():
                runs.tracking.client.log_artifacts(run_id, str(path), path.name)
            elif path.is_file():
                runs.tracking.client.log_artifact(run_id, str(path))
