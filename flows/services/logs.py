"""Errors that the logs of running services repeat: they are reported, since users do not read the logs of services that run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

LOGS = ("prefect.log", "mlflow.log", "worker.log")
READ_BYTES = 4_000_000
"""Of a longer log its end is read: what is repeated is there too."""
MESSAGE_CHARACTERS = 200
_TIME = r"(?:\d{4}[-/]\d\d[-/]\d\d[ T])?\d\d:\d\d:\d\d(?:[.,]\d+)?(?: [+-]\d{4})?"
_BEGINNING = re.compile(rf"^(?:\[?{_TIME}|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):\s)")
"""How a record begins with Prefect (time | level | logger - message), MLflow (date time level) and uvicorn (level: message)."""
_ERROR = re.compile(rf"^\[?(?:{_TIME}[^\w]*)?(?:\[\d+\] )?(?:\[?(?:ERROR|CRITICAL)\]?\b)")
_DECORATION = re.compile(rf"^\[?(?:{_TIME}[^\w]*)?(?:\[\d+\] )?\[?(?:[A-Z]+)\]?[\s:|]*(?:\| )?(?:[\w.]+(?: -|:) )?")
_TRACEBACK = "Traceback (most recent call last):"
_VARIES = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b0x[0-9a-f]+\b|\d+(?:\.\d+)?")


@dataclass(frozen=True)
class RepeatedError:
    """An error that a log holds more than once.

    Attributes:
        message: What it says, without its time.
        count: How often.
        log: The file.
    """

    message: str
    count: int
    log: Path

    def __str__(self) -> str:
        return f"{self.log.name} repeats an error, {self.count} times since the start: {self.message} ({self.log})"


def repeated_messages(text: str) -> dict[str, int]:
    """Returns the errors that a log holds at least twice, the most frequent first: message as it came first -> how often.

    An error is a record of the level ERROR or CRITICAL, or one with a traceback, whose message is the exception's. Records that
    differ in times, numbers and ids only are the same.

    Args:
        text: The log.
    """
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for record in _records(text.splitlines()):
        if message := _message(record):
            same = _VARIES.sub("#", message)
            first.setdefault(same, message)
            counts[same] += 1
    return {first[same][:MESSAGE_CHARACTERS]: count for same, count in counts.most_common() if count > 1}


def _records(lines: Iterable[str]) -> Iterable[list[str]]:
    """Yields the lines of each record: the one that it begins with, and those up to the next beginning."""
    record: list[str] = []
    for line in lines:
        if _BEGINNING.match(line) and record:
            yield record
            record = []
        record.append(line)
    if record:
        yield record


def _message(record: list[str]) -> str:
    """Returns what an error says, or nothing for a record that is none."""
    headings = [place for place, line in enumerate(record) if line == _TRACEBACK]
    if headings:  # of chained ones the last is what went wrong in the end; its frames are indented, the error is not
        return next((line.strip() for line in record[headings[-1] + 1 :] if line.strip() and line[0] != " "), "")
    return _DECORATION.sub("", record[0]).strip() if _ERROR.match(record[0]) else ""


def log_ends(folder: Path) -> dict[str, int]:
    """Returns how long each log is; what is written later belongs to the next start.

    Args:
        folder: Folder of the services' logs.
    """
    return {name: (folder / name).stat().st_size for name in LOGS if (folder / name).is_file()}


def repeated_errors(folder: Path, starts: Mapping[str, int]) -> list[RepeatedError]:
    """Returns the errors that the logs of services repeat.

    Args:
        folder: Folder of the logs.
        starts: Where the records of this start begin, see `log_ends`; a log that has become shorter is read from its beginning.
    """
    errors: list[RepeatedError] = []
    for name in LOGS:
        log = folder / name
        if not log.is_file():
            continue
        size, start = log.stat().st_size, starts.get(name, 0)
        with log.open("rb") as file:
            file.seek(max(start if start <= size else 0, size - READ_BYTES))
            text = file.read().decode("utf-8", errors="replace")
        errors += [RepeatedError(message, count, log) for message, count in repeated_messages(text).items()]
    return errors
