"""The code of a model that MLflow serves: it opens the bundle beside it and answers tables of candidates.

MLflow stores this file with the model and runs it where the model is loaded ("models from code"), so that nothing is a pickle. It
needs the package `softgrpo`, which is stored with the model too, and neither `softgrpo.tasks` nor RecBole nor Prefect.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel

from softgrpo.errors import SoftGRPOError
from softgrpo.serving.bundle import load_bundle

BUNDLE, POLICY = "bundle", "policy"
"""Names of the artifacts; `policy` is there where the language model lies outside the bundle."""


class ServedModel(PythonModel):
    """Answers tables of candidates, one at a time: a language model that reads numbers holds those of one call."""

    def load_context(self, context: Any) -> None:
        """Opens the bundle."""
        policy = context.artifacts.get(POLICY)
        self._bundle = load_bundle(Path(context.artifacts[BUNDLE]), policy and Path(policy))
        self._lock = Lock()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Returns a row for each request and rank, see `softgrpo.serving.bundle.Bundle`; None, since JSON has no NaN, for what a
        ranker does not give.

        Args:
            context: Of MLflow.
            model_input: A DataFrame, see `softgrpo.serving.request_frame`.
            params: `k`: length of the merged lists; None takes the run's.

        Raises:
            MlflowException: The table does not hold what it must; over HTTP this is status 400.
        """
        try:
            with self._lock:
                answer = self._bundle(model_input, (params or {}).get("k"))
            unknown = answer.columns[answer.isna().any()]
            return answer.assign(
                **{str(name): answer[name].astype(object).where(answer[name].notna(), None) for name in unknown}
            )
        except SoftGRPOError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error


set_model(ServedModel())
