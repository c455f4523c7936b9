"""A run's policy as a folder to hand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from softgrpo.common.digests import digest_folder
from softgrpo.flows.results.finished import FinishedRun, open_finished
from softgrpo.serving.bundle import save_bundle
from softgrpo.serving.choice import method_key
from softgrpo.serving.engine_files import write_engine_files
from softgrpo.serving.export import Exported, Served, export_policy
from softgrpo.serving.model_card import Origin
from softgrpo.serving.recommend import recommend, stored_weights
from softgrpo.serving.search_engines import Engine
from softgrpo.stages.inputs import Prepared

NEEDED = ("split", "data", "grpo", "test")
STORED = (*NEEDED, "sft", "gates", "embed")


def export_run(run: FinishedRun, folder: Path, method: str, *, onnx: bool) -> Exported:
    """Exports the SofT-GRPO policy of a run.

    Args:
        run: From `open_run`.
        folder: Where to; new, empty, or with an earlier export.
        method: Key of the method, as in the table, that the model for serving answers with; `best` takes the one that validation
            windows chose.
        onnx: Also write an ONNX file.

    Raises:
        SoftGRPOError: The policy cannot be exported, or the run stored no such method; nothing was written.
    """
    key = method_key(run.folders, run.config.fusion.k, method)

    def write(place: Path) -> None:
        from softgrpo.tasks.tracking.bundles import write_model

        with TemporaryDirectory() as name:
            bundle = Path(name) / "bundle"
            save_bundle(bundle, Prepared.of(run.config, run.folders), run.folders, key)
            write_model(place, bundle)

    return export_policy(folder, run.folders, origin_of(run), onnx=onnx, served=Served(key, write))


def open_run(run_id: str, output: Path) -> FinishedRun:
    """Finds a run with all that an export needs.

    Args:
        run_id: MLflow run of a whole pipeline.
        output: Folder of finished stages, and of MLflow's database unless the environment names another.

    Raises:
        SoftGRPOError: The run is unknown, or did not train or test a policy.
    """
    return open_finished(run_id, output, STORED, NEEDED, refits=True)


def export_weights(
    run: FinishedRun, folder: Path, engines: Sequence[Engine], queries: Mapping[Engine, Mapping[str, Any]]
) -> list[Path]:
    """Writes the weights of all users of a run for search engines; returns the files.

    Args:
        run: From `open_run`.
        folder: Where to.
        engines: Which engines.
        queries: Engine -> recaller -> query; an engine that is missing gets placeholders.

    Raises:
        SoftGRPOError: The run stored no weights, or an engine takes fewer recallers.
    """
    prepared = Prepared.of(run.config, run.folders)
    learned = stored_weights(run.folders["test"], prepared.recallers)
    users = recommend(prepared, learned, None, 1).users
    k = run.config.fusion.k
    return write_engine_files(folder, users, engines, queries, prepared.fusion, prepared.stored_lists.depth, k)


def origin_of(run: FinishedRun) -> Origin:
    """Returns where the policy of a run comes from; its files were verified when it was opened."""
    data, policy = (digest_folder(run.folders[name]) for name in ("split", "grpo"))
    return Origin(run.run_id, run.started, run.commit, run.config, data, policy, run.refit_of)
