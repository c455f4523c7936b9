"""What MLflow shows of a policy: what it takes, what it gives, and what it was made for.

The policy's own files are not those of one of MLflow's flavours, so the model is marked as external until its bundle is added to
it (`softgrpo.tasks.tracking.bundles`). `softgrpo.serving.pure_models.load_model` loads the policy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.types import ColSpec, DataType, Schema
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

from softgrpo.config import ExperimentConfig


def signature(recallers: Sequence[str]) -> ModelSignature:
    """Returns what a policy is: from the text of a prompt to a weight for each recaller."""
    takes = Schema([ColSpec(DataType.string, "prompt")])
    return ModelSignature(takes, Schema([ColSpec(DataType.double, name) for name in recallers]))


def write_model_file(folder: Path, model: LoggedModel, recallers: Sequence[str]) -> None:
    """Writes the file `MLmodel`, from which MLflow's pages take the signature.

    Args:
        folder: Where to.
        model: The model as MLflow knows it.
        recallers: The pool.
    """
    Model(
        artifact_path=model.artifact_location,
        model_uuid=model.model_id,
        model_id=model.model_id,
        run_id=model.source_run_id,
        signature=signature(recallers),
        metadata={MLFLOW_MODEL_IS_EXTERNAL: True},
    ).save(str(folder / MLMODEL_FILE_NAME))


def model_tags(config: ExperimentConfig, stage: str) -> dict[str, str]:
    """Returns the tags of a policy and of its registered version.

    Args:
        config: The resolved configuration.
        stage: sft or grpo.
    """
    return {
        "dataset": config.data.dataset,
        "size": config.policy.size,
        "pool": ", ".join(config.recall.recallers),
        "stage": stage,
        "seed": str(config.seed),
    }
