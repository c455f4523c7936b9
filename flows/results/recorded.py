"""What a run that MLflow knows gives back."""

from __future__ import annotations

from dataclasses import dataclass

from softgrpo.pipeline.run import RunResult


@dataclass(frozen=True, kw_only=True)
class RecordedRun(RunResult):
    """What a run that MLflow knows gives back.

    Attributes:
        run_id: The pipeline's run in MLflow.
        tracking: Address of MLflow, without a password.
    """

    run_id: str
    tracking: str
