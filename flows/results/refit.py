"""A finished run on its way to a refit: what is checked before anything is trained, and what is said of it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softgrpo.config import ExperimentConfig
from softgrpo.data.locate import locate
from softgrpo.flows.results.finished import FinishedRun, open_finished
from softgrpo.pipeline.refit import refit_config, trained_recallers

NEEDED = ("split", "data")
STORED = (*NEEDED, "embed", "recall-", "gates", "sft", "grpo", "test")


@dataclass(frozen=True)
class RefitPlan:
    """A run that can be refitted.

    Attributes:
        run: The run that was evaluated.
        config: Settings of the refit, see `softgrpo.pipeline.refit.refit_config`.
    """

    run: FinishedRun
    config: ExperimentConfig

    @property
    def epochs(self) -> dict[str, int]:
        """The epochs of each recaller that is trained in epochs."""
        settings = {name: self.config.recall.settings_of(name) for name in trained_recallers(self.config)}
        return {name: each["epochs"] for name, each in settings.items() if "epochs" in each}

    def notes(self) -> list[str]:
        """Returns what a reader must know before."""
        notes = []
        if (users := self.run.config.data.max_users) is not None:
            notes.append(f"the run learnt from a sample of {users:,} users; a refit takes all of the data set")
        if files := [name for name in self.config.recall.recallers if name in self.config.recall.files]:
            notes.append(f"{', '.join(files)}: lists of a file are not refitted; give those of now with --lists")
        return notes


@dataclass(frozen=True)
class Refitted:
    """A finished refit.

    Attributes:
        run_id: Its MLflow run.
        refit_of: The run that was evaluated.
        recallers: What was trained, or found trained.
        reused: Nodes that were not run again.
        counts: Users, items and interactions, and how many of each are new.
        data: Digest of the data set then and now.
        model: Registered model and version; "" where the run has no policy.
        alias: The alias that is on it now.
        link: Its page in MLflow.
    """

    run_id: str
    refit_of: str
    recallers: tuple[str, ...]
    reused: tuple[str, ...]
    counts: dict[str, int]
    data: dict[str, str]
    model: str
    alias: str
    link: str

    def record(self) -> dict[str, Any]:
        """Returns what a machine reads."""
        names = ("run_id", "refit_of", "recallers", "reused", "counts", "data", "model", "alias", "link")
        return {name: getattr(self, name) for name in names} | {"evaluated": False}


def open_to_refit(run_id: str, output: Path, data_path: Path | None = None) -> RefitPlan:
    """Finds a run and checks what can be checked before anything is trained.

    Args:
        run_id: MLflow run of a pipeline that was evaluated.
        output: Folder of finished stages, and of MLflow's database unless the environment names another.
        data_path: Folder of dataset folders; None takes the run's.

    Raises:
        SoftGRPOError: The run is unknown, did not get far enough, or does not tell its epochs; or its data set is not there.
    """
    run = open_finished(run_id, output, STORED, NEEDED)
    config = refit_config(run.config, run.folders, data_path)
    locate(config.data)
    return RefitPlan(run, config)
