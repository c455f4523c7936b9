"""Which errors are worth another try: those of input and output that may be gone in a while, and no others."""

from __future__ import annotations

import errno

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE

from softgrpo.errors import ConfigError, StoreError, TimeLimitError, TrainingError, no_space
from softgrpo.tasks.running.retries import is_transient
from softgrpo.tasks.tracking.connection import store_errors


def away() -> Exception:
    """What reaches a stage when MLflow's client has given up; it does not say from what its error arose."""
    try:
        with store_errors("http://127.0.0.1:1"):
            try:
                raise requests.ConnectionError("nobody there")
            except requests.ConnectionError as error:
                raise MlflowException(f"failed with {error}")  # noqa: B904
    except StoreError as error:
        return error


def full_for_mlflow() -> Exception:
    """What reaches a stage when MLflow's SQLite file is on a full disk: MLflow calls that unavailable for a while."""
    try:
        with store_errors("sqlite:///mlflow.db"):
            raise MlflowException("(sqlite3.OperationalError) database or disk is full", TEMPORARILY_UNAVAILABLE)
    except StoreError as error:
        return error


PASSING: list[Exception] = [
    away(),
    requests.Timeout("too late"),
    MlflowException("database is locked", TEMPORARILY_UNAVAILABLE),
    OSError(errno.ESTALE, "stale file handle"),
    OSError(errno.EIO, "input/output error"),
]
LASTING: list[Exception] = [
    TrainingError("loss is nan", "training stops", "lower the learning rate", code="TRAINING-000"),
    ConfigError("a", "b", "c", code="CONFIG-000"),
    StoreError("MLflow said no", "b", "c", code="STORE-000"),
    MlflowException("no such run", RESOURCE_DOES_NOT_EXIST),
    requests.HTTPError("403 Forbidden"),
    PermissionError(errno.EACCES, "permission denied"),
    OSError(errno.ENOSPC, "no space left"),
    FileNotFoundError(errno.ENOENT, "gone"),
    no_space(),
    full_for_mlflow(),
    ValueError("a bug"),
    MemoryError(),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_faults_of_input_and_output_are_transient(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_would_be_the_same_again_does_not_pass(error: Exception) -> None:
    assert not is_transient(error)


def test_a_stage_that_took_too_long_is_not_tried_again_whatever_it_was_at() -> None:
    late = TimeLimitError("sft took longer than 24 hours", "a rule", "a remedy", code="TIME-000")
    late.__cause__ = requests.ConnectionError("interrupted")
    assert not is_transient(late)
    renamed = requests.ConnectionError("interrupted")
    renamed.__context__ = TimeLimitError("sft took longer than 24 hours", "a rule", "a remedy", code="TIME-000")
    assert not is_transient(renamed)
