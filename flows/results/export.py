"""A run's policy as a folder to hand on."""

from __future__ import annotations

from pathlib import Path

from flows.results.finished import FinishedRun, open_finished
from softgrpo.common.digests import digest_folder
from softgrpo.serving.export import Exported, export_policy
from softgrpo.serving.model_card import Origin

NEEDED = ("split", "data", "grpo", "test")


def export_run(run_id: str, output: Path, folder: Path, *, onnx: bool) -> Exported:
    """Exports the SofT-GRPO policy of a run.

    Args:
        run_id: MLflow run of a whole pipeline.
        output: Folder of finished stages, and of MLflow's database unless the environment names another.
        folder: Where to; new, empty, or with an earlier export.
        onnx: Also write an ONNX file.

    Raises:
        SoftGRPOError: The run is unknown, did not train or test a policy, or the policy cannot be exported; nothing was written.
    """
    run = open_finished(run_id, output, NEEDED, NEEDED)
    return export_policy(folder, run.folders, origin_of(run), onnx=onnx)


def origin_of(run: FinishedRun) -> Origin:
    """Returns where the policy of a run comes from; its files were verified when it was opened."""
    data, policy = (digest_folder(run.folders[name]) for name in ("split", "grpo"))
    return Origin(run.run_id, run.started, run.commit, run.config, data, policy)
