"""Bundles as models of MLflow: signature, input example, pinned requirements, models from code."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.models.utils import _save_example
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

import softgrpo
from softgrpo.config import ExperimentConfig
from softgrpo.errors import PolicyError
from softgrpo.serving import request_frame as columns
from softgrpo.serving.bundle import ITEMS, read_card, save_bundle
from softgrpo.stages.inputs import Prepared
from softgrpo.tasks.tracking import served_model
from softgrpo.tasks.tracking.connection import store_errors
from softgrpo.tasks.tracking.runs import Runs
from softgrpo.tasks.tracking.store import PAYLOAD

logger = logging.getLogger("softgrpo.store")
REQUIREMENTS = (
    "mlflow",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "huggingface-hub",
    "gguf",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "scikit-learn",
    "skops",
    "rich",
    "tqdm",
)
"""What serving imports; a test loads a bundle with everything else out of reach."""
FLAVOR = "python_function"
EXAMPLE_ITEMS = 6


def signature(recallers: Sequence[str], fields: Sequence[str], k: int) -> ModelSignature:
    """Returns what a served model takes and gives.

    Args:
        recallers: The pool.
        fields: Names of the users' fields.
        k: Usual length of a merged list.
    """
    text, number = DataType.string, DataType.double
    takes = [
        ColSpec(text, columns.REQUEST),
        ColSpec(text, columns.RECALLER),
        ColSpec(text, "item"),
        ColSpec(number, "score"),
    ]
    known: dict[str, Any] = {columns.HISTORY: Array(text), columns.TITLES: Array(text), columns.TIMES: Array(number)}
    known |= dict.fromkeys((columns.USER + field for field in fields), text)
    known |= dict.fromkeys((columns.NDCG, columns.RANK, columns.WINDOWS), number)
    takes += [ColSpec(kind, name, required=False) for name, kind in known.items()]
    gives = [ColSpec(text, "request"), ColSpec(DataType.long, "rank"), ColSpec(text, "item"), ColSpec(text, "title")]
    gives.append(ColSpec(number, "score"))
    gives += [ColSpec(number, f"{of}_{name}", required=False) for of in ("from", "weight") for name in recallers]
    gives += [ColSpec(text, "method"), ColSpec(text, "reason")]
    return ModelSignature(Schema([*takes]), Schema([*gives]), ParamSchema([ParamSpec("k", DataType.long, k)]))


def example(items: Sequence[str], recallers: Sequence[str]) -> pd.DataFrame:
    """Returns a small table in the form that the model takes: made up of some items, of nobody's history.

    Args:
        items: Ids of at least six items.
        recallers: The pool.
    """
    rows = [
        {
            "request": "1",
            "recaller": name,
            "item": items[3 + (place + rank) % 3],
            "score": 3.0 - rank,
            "history": list(items[:3]),
        }
        for place, name in enumerate(recallers)
        for rank in range(3)
    ]
    return pd.DataFrame(rows)


def publish_bundle(runs: Runs, config: ExperimentConfig, stage: str, run_id: str, folders: Mapping[str, Path]) -> None:
    """Makes a registered policy one that MLflow can load: adds its bundle to its files, where the language model is.

    Args:
        runs: Access to the runs.
        config: The resolved configuration.
        stage: sft or grpo.
        run_id: Run of the policy's stage.
        folders: Of the stages that the run has.

    Raises:
        StoreError: MLflow refuses.
    """
    client = runs.tracking.client
    with store_errors(runs.tracking.uri):
        model = client.get_logged_model(client.get_run(run_id).data.tags["model_id"])
    with TemporaryDirectory() as name:
        bundle = Path(name) / served_model.BUNDLE
        try:
            save_bundle(bundle, Prepared.of(config, folders), folders, f"{stage}_multi", copy=False)
        except (
            PolicyError
        ) as error:  # such as numbers that need trained recallers; the policy itself is stored all the same
            logger.warning("MLflow cannot load the model of stage %s: %s", stage, error)
            return
        about = Model(
            model.artifact_location, model_uuid=model.model_id, model_id=model.model_id, run_id=model.source_run_id
        )
        write_model(Path(name) / "model", bundle, PAYLOAD, about)
        with store_errors(runs.tracking.uri):
            client.log_model_artifacts(model.model_id, str(Path(name) / "model"))
            client.delete_logged_model_tag(model.model_id, MLFLOW_MODEL_IS_EXTERNAL)


def write_model(folder: Path, bundle: Path, policy: str | None = None, about: Model | None = None) -> None:
    """Writes a bundle as a model of MLflow; no path of this machine is in it.

    Args:
        folder: A new folder.
        bundle: From `save_bundle`.
        policy: Where the language model lies, relative to `folder`, unless it is in the bundle.
        about: Whose ids it gets, where MLflow knows the model already.
    """
    card = read_card(bundle)
    recallers = card["config"]["recall"]["recallers"]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*input example was not provided", category=UserWarning
        )  # it comes below
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(Path(served_model.__file__)),
            artifacts={served_model.BUNDLE: str(bundle)},
            code_paths=[str(Path(softgrpo.__file__).parent)],
            signature=signature(recallers, card["fields"], card["config"]["fusion"]["k"]),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
            metadata={"method": card["method"], "softgrpo": softgrpo.__version__},
        )
    for cache in [*folder.rglob("__pycache__")]:
        shutil.rmtree(cache)
    model = Model.load(str(folder))
    items = pd.read_parquet(bundle / ITEMS)["token"].head(EXAMPLE_ITEMS).tolist()
    if len(items) == EXAMPLE_ITEMS:
        _save_example(model, example(items, recallers), str(folder))  # save_model would open the model twice to try it
    flavor = model.flavors[FLAVOR]
    flavor["model_code_path"] = Path(served_model.__file__).name
    places = {name: each["path"] for name, each in flavor["artifacts"].items()}
    places |= {served_model.POLICY: policy} if policy is not None else {}
    flavor["artifacts"] = {name: {"path": path, "uri": path} for name, path in places.items()}
    if about is not None:
        model.model_uuid, model.model_id, model.run_id = about.model_uuid, about.model_id, about.run_id
        model.artifact_path = about.artifact_path
    model.save(str(folder / MLMODEL_FILE_NAME))
