"""What a run writes to the console: short lines above the progress bars, and no traceback unless it is asked for."""

from __future__ import annotations

import copy
import io
import logging
import sys
from pathlib import Path
from typing import TextIO

from tqdm.auto import tqdm

from softgrpo.common.paths import PACKAGE
from softgrpo.common.redaction import hide_passwords
from softgrpo.common.text import visible

RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
CURVES_LOGGER = "softgrpo.curves"
VERDICT_LOGGER = "softgrpo.verdict"
"""Its lines end the log of a run; a command prints them by itself."""
ALONE = "transformers"
"""Keeps its lines from the root logger."""
OURS = (PACKAGE / "flows", PACKAGE / "tasks")


class Lines(logging.StreamHandler[TextIO]):
    """Writes records above the progress bars, which are taken away and drawn again."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record to what is standard error now."""
        self.setStream(sys.stderr)
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class ForPeople(logging.Filter):
    """Drops what is shown elsewhere: errors and verdicts, which the command itself prints, curves, and Prefect's own lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tells whether a record is shown."""
        if record.name in RUN_LOGGERS and not any(Path(record.pathname).is_relative_to(folder) for folder in OURS):
            return False
        if record.name in (CURVES_LOGGER, VERDICT_LOGGER):
            return False
        return not (record.exc_info and record.levelno >= logging.ERROR)


class Visible(logging.Formatter):
    """Time and message, with escapes for what would move the cursor."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line of a record."""
        return visible(super().format(record), kept="\n\t")


class Short(Visible):
    """Time and message, without the traceback that a warning may carry."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line of a record."""
        record = copy.copy(record)
        record.exc_info = record.exc_text = record.stack_info = None
        return super().format(record)


class ForRuns(logging.Filter):
    """Lets through what belongs into Prefect's log of a run and is not there yet: softgrpo's lines, and warnings of libraries."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tells whether a record is sent."""
        package = record.name.partition(".")[0]
        return package == "softgrpo" or (record.levelno >= logging.WARNING and package not in ("prefect", ALONE))


def attach_run_logging() -> None:
    """Sends what stages, trainers and recallers log to Prefect's log of the run, however quiet Prefect itself is."""
    from prefect.logging.handlers import APILogHandler  # a run without Prefect uses this module too

    hide_passwords()
    for name in RUN_LOGGERS:
        if not logging.getLogger(name).isEnabledFor(logging.INFO):
            logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("softgrpo").setLevel(logging.INFO)
    most, alone = APILogHandler(), APILogHandler(logging.WARNING)
    most.addFilter(ForRuns())
    for logger, handler in ((logging.getLogger(), most), (logging.getLogger(ALONE), alone)):
        if not any(isinstance(known, APILogHandler) for known in logger.handlers):
            logger.addHandler(handler)


def make_readable(debug: bool = False) -> None:
    """Gives all loggers that write to the console the same short lines; files and Prefect's log of the run keep everything.

    Call it after the imports of prefect and mlflow, where they are used: they set up handlers of their own.

    Args:
        debug: Show every record, with its traceback.
    """
    handler = Lines()
    handler.setFormatter((Visible if debug else Short)("%(asctime)s | %(message)s", "%H:%M:%S"))
    if not debug:
        handler.addFilter(ForPeople())
    logging.getLogger("softgrpo").setLevel(logging.INFO)
    root = logging.getLogger()
    root.addHandler(handler)
    for logger in (root, *map(logging.getLogger, list(root.manager.loggerDict))):
        others = [old for old in logger.handlers if not _writes_to_console(old)]
        if len(others) < len(logger.handlers):
            logger.handlers = [*others, handler]


def _writes_to_console(handler: logging.Handler) -> bool:
    """Whether a handler writes neither to a file nor to memory."""
    if isinstance(handler, Lines):
        return True
    if not isinstance(handler, logging.StreamHandler) or isinstance(handler, logging.FileHandler):
        return False
    return not isinstance(handler.stream, io.StringIO)
