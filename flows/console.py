"""Prefect's console lines: short, a line or two per stage, no traceback of an error that is meant for people."""

from __future__ import annotations

import logging

from prefect.logging.handlers import PrefectConsoleHandler

from softgrpo.errors import SoftGRPOError

RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
PREFECTS_OWN = ("Beginning flow run", "View at ", "Finished in state", "Crash detected!", "Created artifact")


class ForPeople(logging.Filter):
    """Drops Prefect's own notes on states, and its report of an error that the caller receives anyway."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tells whether a record is shown."""
        reported = record.exc_info[1] if record.exc_info else None
        return not isinstance(reported, SoftGRPOError) and not record.getMessage().startswith(PREFECTS_OWN)


def make_readable() -> None:
    """Sets level, format and filter of the console lines of runs; call it where Prefect has set up logging."""
    for name in RUN_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs, with traceback, what it raises
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler) and not any(
            isinstance(old, ForPeople) for old in handler.filters
        ):
            handler.addFilter(ForPeople())
            handler.setFormatter(logging.Formatter("%(asctime)s | %(message)s", "%H:%M:%S"))
