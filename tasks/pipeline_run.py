"""The pipeline's own MLflow run, which is the one to compare: settings, versions, final metrics, links to every stage's run."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

import softgrpo
from softgrpo.common import artifacts
from softgrpo.common.artifacts import FIGURES, REPORT_PAGE, REPORT_TEXT
from softgrpo.common.paths import stages_folder
from softgrpo.config import ExperimentConfig
from softgrpo.errors import SoftGRPOError, StoreError
from softgrpo.evaluation.summary import read_summary
from softgrpo.pipeline.keys import library_versions
from softgrpo.pipeline.run import read_metrics, read_table
from softgrpo.pipeline.store import LocalStore
from softgrpo.policy.card import CARD as POLICY_CARD
from softgrpo.stages.contract import Node
from softgrpo.tasks.stage import Progress
from softgrpo.tasks.tracking.connection import EXPERIMENTS, open_tracking, store_errors
from softgrpo.tasks.tracking.descriptions import NOTE, pipeline_note
from softgrpo.tasks.tracking.groups import MEMBER, Member
from softgrpo.tasks.tracking.headline import (
    POLICIES,
    TEST,
    Line,
    headline_tags,
    learning_curve,
    lines,
    readable,
    results,
)
from softgrpo.tasks.tracking.liveness import LivenessLocks
from softgrpo.tasks.tracking.pages import run_page, version_page, view_id, view_page
from softgrpo.tasks.tracking.registry import is_external, register
from softgrpo.tasks.tracking.run_names import PREFECT_LINK, PREFECT_TAG, About
from softgrpo.tasks.tracking.runs import COMMIT_TAG, LOGGED_ARTIFACTS_TAG, Runs, git_commit
from softgrpo.tasks.tracking.saved_view import keep_view
from softgrpo.tasks.tracking.store import MODEL_STAGES, ArtifactStore, dataset

REPORT = (REPORT_PAGE, REPORT_TEXT, FIGURES)
"""What is shown with the pipeline's run of the files of a stage that has them."""
TABLE = "comparison.json"
"""The table of all methods, which MLflow's page shows as one."""


def open_store(config: ExperimentConfig, output: Path) -> ArtifactStore:
    """Opens MLflow and the folder of finished stages.

    Args:
        config: The resolved configuration; its dataset names the experiment.
        output: Folder of all that is written.

    Raises:
        StoreError: The folder cannot be written, or MLflow does not answer.
    """
    local = LocalStore(stages_folder(output))
    tracking = open_tracking(output, EXPERIMENTS + config.data.dataset, local)
    return ArtifactStore(Runs(tracking, LivenessLocks.of(local)), local)


@contextmanager
def pipeline_run(
    store: ArtifactStore, config: ExperimentConfig, nodes: Sequence[Node], about: About, member: Member | None = None
) -> Iterator[str]:
    """Starts the pipeline's run with all that is known beforehand, gives its id, and ends it with the block.

    Args:
        store: The open store.
        config: The resolved configuration.
        nodes: The plan.
        about: Its name, tags and links.
        member: Makes it a member of a group.
    """
    tags = {**about.tags, "stage": "pipeline", "version.python": platform.python_version()}
    tags[NOTE] = pipeline_note(about.tags, None, (), about.links, {})
    libraries = library_versions({library for node in nodes for library in node.stage.libraries})
    tags |= {f"version.{library}": version for library, version in libraries.items()}
    if commit := git_commit(Path(softgrpo.__file__).parent):
        tags[COMMIT_TAG] = commit
    if PREFECT_LINK in about.links:
        tags[PREFECT_TAG] = about.links[PREFECT_LINK]
    if member is not None:
        tags[MEMBER] = member.name
    settings = config.model_dump(mode="json")
    runs = store.runs
    runs.end_lost()
    with runs.recorded(about.name, tags, parent=member.group if member is not None else None) as run_id:
        runs.params(run_id, settings)
        with store_errors(runs.tracking.uri):
            runs.tracking.client.log_text(run_id, yaml.safe_dump(settings, sort_keys=False), "config.yaml")
        try:
            yield run_id
        except SoftGRPOError as error:
            if not isinstance(error, StoreError):  # after one of those MLflow itself may be down
                runs.tag(run_id, {NOTE: pipeline_note(about.tags, None, (), about.links, {}, failure=str(error))})
            raise


def note_nodes(progress: Progress, nodes: Sequence[Node], *, whole: bool = False) -> None:
    """Adds finished nodes to the pipeline's run: links, digest of the data, report; and policies to the registry.

    Args:
        progress: The run.
        nodes: What has been finished since the last call.
        whole: These are the last ones: the results are added.

    Raises:
        StoreError: MLflow refuses.
    """
    _note_policies(progress, nodes)
    for node in nodes:
        if node.stage.name == TEST:
            _note_test(progress, node)
    _note_numbers(progress, nodes, whole=whole)
    for node in nodes:
        folder = progress.store.local.payload(progress.references[node.name]["key"])
        _show_report(progress.store.runs, progress.parent_run, folder, progress.config.fusion.k)


def _note_test(progress: Progress, node: Node) -> None:
    """Adds the policies' scores on the test windows to their models, and stores the view of all runs."""
    config = progress.config
    scores, k = read_metrics(progress.folders()[node.name]), config.fusion.k
    for stage in POLICIES if node.name in progress.ran else ():
        name = f"ndcg@{k}/{stage}_multi"
        if stage in progress.references and name in scores:
            progress.store.note_score(progress.references[stage], f"test_ndcg@{k}", scores[name])
    keep_view(progress.store.runs.tracking, progress.store.local, k, config.recall.recallers)


def _note_numbers(progress: Progress, nodes: Sequence[Node], *, whole: bool) -> None:
    """Links the runs of nodes and updates the description; at the end of the run, adds the numbers that runs are compared by."""
    folders, k, pool = progress.folders(), progress.config.fusion.k, progress.config.recall.recallers
    tags = {"reused": " ".join(progress.reused()), NOTE: _note(progress)}
    for node in nodes:
        reference = progress.references[node.name]
        tags[f"stage_run.{node.name}"] = reference["run_id"]
        if not node.upstream:
            tags["data_digest"] = reference["digest"]
    metrics = results(folders, k, pool) if whole else {}
    points = [
        point for stage in POLICIES if whole and stage in folders for point in learning_curve(folders[stage], stage)
    ]
    if whole and TEST in folders:
        tags[LOGGED_ARTIFACTS_TAG] = json.dumps([{"path": TABLE, "type": "table"}])
        if (summary := read_summary(folders[TEST])) is not None:
            tags |= headline_tags(read_metrics(folders[TEST]), summary)
    progress.store.runs.metrics(progress.parent_run, metrics, tags, points)


def _note(progress: Progress) -> str:
    """Returns the description of the run, with the results that are known so far."""
    experiment, run_id, about = progress.store.runs.tracking.experiment_id, progress.parent_run, progress.about
    links = dict(about.links)
    summary, table = None, list[Line]()
    if TEST in progress.references:
        k, folder = progress.config.fusion.k, progress.folders()[TEST]
        summary = read_summary(folder)
        if summary is not None:
            table = lines(read_metrics(folder), summary, progress.config.recall.recallers)
        links["The report"] = run_page(experiment, run_id, f"/artifacts/{REPORT[0]}")
        links["The table of all methods"] = run_page(experiment, run_id, f"/artifacts/{TABLE}")
        links[f"All runs, single against multi, NDCG@{k}"] = view_page(experiment, view_id(k))
    links |= progress.models
    stages = {name: run_page(experiment, reference["run_id"]) for name, reference in progress.references.items()}
    return pipeline_note(about.tags, summary, table, links, stages)


def _note_policies(progress: Progress, nodes: Sequence[Node]) -> None:
    """Records the data and the policies that were reused or made, and registers the policies."""
    store, references = progress.store, progress.references
    data = [
        dataset(progress.config.data.dataset, references[node.name]["digest"]) for node in nodes if not node.upstream
    ]
    policies = [node for node in nodes if node.stage.name in MODEL_STAGES]
    reused, new = (
        [references[node.name] for node in policies if (node.name in progress.ran) == ran] for ran in (False, True)
    )
    store.note_used(progress.parent_run, data, reused)
    store.note_made(progress.parent_run, new)
    for node in policies:
        stage, split = node.stage.name, references["split"]["digest"]
        with store.local.lock("registry"):  # of two identical runs at the same time, only one adds the model
            version = register(store.runs, progress.config, stage, references[node.name], split)
            _make_servable(progress, stage, references[node.name]["run_id"])
        label = f"Registered model {version.name}, version {version.version}"
        progress.models[label] = version_page(version.name, str(version.version))


def _make_servable(progress: Progress, stage: str, run_id: str) -> None:
    """Lets MLflow load the policy of a stage's run, unless it can already."""
    folders, runs = progress.folders(), progress.store.runs
    if (folders[stage] / POLICY_CARD).is_file() and is_external(runs, run_id):
        from softgrpo.tasks.tracking.bundles import (
            publish_bundle,  # imports torch, which a run of which all is stored does without
        )

        publish_bundle(runs, progress.config, stage, run_id, folders)


def _show_report(runs: Runs, run_id: str, folder: Path, k: int) -> None:
    client = runs.tracking.client
    with store_errors(runs.tracking.uri):
        for path in (folder / name for name in REPORT):
            if path.is_dir():
                client.log_artifacts(run_id, str(path), path.name)
            elif path.is_file():
                client.log_artifact(run_id, str(path))
        if (folder / artifacts.TABLE).is_file() and (table := read_table({TEST: folder})) is not None:
            client.log_text(run_id, readable(table, k).to_json(orient="split", index=False), TABLE)
