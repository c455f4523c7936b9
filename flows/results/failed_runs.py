"""What Prefect shows of a failed run: the readable message as its state and in its log, and at most one traceback."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from prefect import get_run_logger
from prefect.logging.handlers import APILogHandler
from prefect.states import Failed

from softgrpo.errors import SoftGRPOError
from softgrpo.flows.runtime.console import RUN_LOGGERS, attach_run_logging

P = ParamSpec("P")
R = TypeVar("R")

FLOW_RUNS = RUN_LOGGERS[0]
STATES = "Finished in state"
"""Begins Prefect's own lines on how a run or a task ended; they repeat the state, which the page shows."""


def fails_readably(function: Callable[P, R]) -> Callable[P, R]:
    """Lets the flow that a function makes fail with the message of an error of ours as it is, without Prefect's words around it.

    The caller of the flow gets the same exception as ever. Place it below `@flow`.

    Args:
        function: The flow's function.
    """

    @wraps(function)
    def flow_function(*arguments: P.args, **options: P.kwargs) -> R:
        attach_run_logging()
        tell_failures_once()
        try:
            return function(*arguments, **options)
        except SoftGRPOError as error:
            get_run_logger().error("%s", error, exc_info=True)
            return cast("R", Failed(message=str(error), data=error))

    # Prefect would look for the types that the function names in this module
    vars(flow_function)["__signature__"] = inspect.signature(function, eval_str=True)
    return flow_function


def tell_failures_once() -> None:
    """Makes the log that Prefect shows of a run say what failed once; with PREFECT_LOGGING_LEVEL=DEBUG it keeps all tracebacks."""
    if logging.getLogger("prefect").isEnabledFor(logging.DEBUG):
        return
    for name in RUN_LOGGERS:
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, APILogHandler) and not isinstance(handler.formatter, MessageFirst):
                handler.setFormatter(MessageFirst(handler.formatter))
                handler.addFilter(Once())


class Once(logging.Filter):
    """Drops an error that the log of the same flow run has already: a task, its flow and Prefect's engine each report it."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tells whether a record is sent."""
        if record.getMessage().startswith(STATES):
            return False
        error = _error(record)
        if error is None or (record.name != FLOW_RUNS and not isinstance(error, SoftGRPOError)):
            return True  # of an error that was not foreseen, the flow's report has the traceback
        key = str(getattr(record, "flow_run_id", "")), _first_line(error)
        if key in self._logged:
            return False
        self._logged.add(key)
        return True


class MessageFirst(logging.Formatter):
    """Writes the message of an error, and after it the traceback where a flow failed with an error that is none of ours.

    Args:
        usual: Formats all other records; None takes the message.
    """

    def __init__(self, usual: logging.Formatter | None) -> None:
        super().__init__()
        self._usual = usual or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        error = _error(record)
        if error is None:
            return self._usual.format(record)
        if isinstance(error, SoftGRPOError) or record.name != FLOW_RUNS or not isinstance(error, Exception):
            return _first_line(error)
        return f"{_first_line(error)}\n{self.formatException((type(error), error, error.__traceback__))}"


def _error(record: logging.LogRecord) -> BaseException | None:
    """Returns the error that a record reports, None for another record."""
    return record.exc_info[1] if record.exc_info and record.levelno >= logging.ERROR else None


def _first_line(error: BaseException) -> str:
    return str(error) if isinstance(error, SoftGRPOError) else f"{type(error).__name__}: {error}"
