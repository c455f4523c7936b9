"""What Prefect's log and state say of a run that fails; on a real server, with two small flows and a task."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from softgrpo.errors import DataError
from softgrpo.flows.results.failed_runs import MessageFirst, Once, fails_readably, tell_failures_once
from softgrpo.flows.runtime.console import RUN_LOGGERS

MESSAGE = "A file. It must be another. Give another. [DATA-000]"


def record(error: BaseException, logger: str = "prefect.flow_runs", flow_run: str = "one") -> logging.LogRecord:
    """What Prefect logs of an error that was raised."""
    try:
        raise error
    except type(error):
        made = logging.LogRecord(logger, logging.ERROR, __file__, 1, "Encountered: %r", (error,), sys.exc_info())
    made.flow_run_id = flow_run
    return made


def refusal() -> DataError:
    return DataError("A file", "it must be another", "Give another", code="DATA-000")


def test_an_error_of_ours_is_its_message_and_no_traceback() -> None:
    assert MessageFirst(None).format(record(refusal())) == MESSAGE
    assert MessageFirst(None).format(record(refusal(), "prefect.task_runs")) == MESSAGE


def test_another_error_has_its_message_first_and_one_traceback_with_the_flow() -> None:
    first, *others = MessageFirst(None).format(record(ValueError("no"))).splitlines()
    assert first == "ValueError: no"
    assert others[0] == "Traceback (most recent call last):" and others[-1] == "ValueError: no"
    assert MessageFirst(None).format(record(ValueError("no"), "prefect.task_runs")) == "ValueError: no"
    assert MessageFirst(None).format(record(KeyboardInterrupt())) == "KeyboardInterrupt: "


def test_a_line_that_reports_no_error_stays_as_it_is() -> None:
    line = logging.LogRecord("prefect.flow_runs", logging.ERROR, __file__, 1, "a %s", ("line",), None)
    assert MessageFirst(logging.Formatter("> %(message)s")).format(line) == "> a line"
    assert Once().filter(line) and Once().filter(line)


def test_an_error_is_told_once_in_each_run() -> None:
    once = Once()
    assert once.filter(record(refusal(), "prefect.task_runs"))
    assert not once.filter(record(refusal()))
    assert once.filter(record(refusal(), flow_run="two"))
    # the task's line of another error has no traceback, so the flow's is told too; the engine's, the third, is not
    assert once.filter(record(ValueError("no"), "prefect.task_runs"))
    assert once.filter(record(ValueError("no")))
    assert not once.filter(record(ValueError("no")))
    ended = logging.LogRecord("prefect.task_runs", logging.ERROR, __file__, 1, "Finished in state Failed", (), None)
    assert not once.filter(ended)


@pytest.fixture
def handlers() -> Iterator[list[logging.Handler]]:
    """The handlers that send lines of runs to Prefect, put back as they were."""
    from prefect.logging.handlers import APILogHandler

    found = [each for name in RUN_LOGGERS for each in logging.getLogger(name).handlers]
    found = [handler for handler in found if isinstance(handler, APILogHandler)]
    before = [(handler.formatter, list(handler.filters)) for handler in found]
    for handler in found:
        handler.formatter, handler.filters = None, []
    yield found
    for handler, (formatter, filters) in zip(found, before, strict=True):
        handler.formatter, handler.filters = formatter, filters


def test_it_is_set_up_once_and_not_where_debugging_is_asked_for(
    handlers: list[logging.Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert handlers
    prefect = logging.getLogger("prefect")
    level = prefect.level
    prefect.setLevel(logging.DEBUG)
    tell_failures_once()
    prefect.setLevel(level)
    assert all(handler.formatter is None for handler in handlers)
    tell_failures_once()
    tell_failures_once()
    assert all(isinstance(handler.formatter, MessageFirst) for handler in handlers)
    assert all(len(handler.filters) == 1 for handler in handlers)


def test_the_state_is_the_message_and_the_caller_gets_the_error() -> None:
    from prefect import flow

    @flow(name="inner")
    @fails_readably
    def inner(error: Any) -> int:
        raise error

    @flow(name="outer", validate_parameters=False)
    @fails_readably
    def outer(error: Any) -> int:
        return inner(error)

    with pytest.raises(DataError, match=r"\[DATA-000\]"):
        outer(refusal())
    state = outer(refusal(), return_state=True)
    assert state.is_failed() and state.message == MESSAGE
    with pytest.raises(ValueError, match="none of ours"):
        outer(ValueError("none of ours"))


def test_a_form_shows_the_types_of_the_flow_itself() -> None:
    from softgrpo.flows.pipeline import softgrpo_flow

    properties = softgrpo_flow.parameters.model_dump()["properties"]
    assert properties["size"]["enum"] == ["tiny", "mini", "small", "large"]
    assert softgrpo_flow.validate_parameters({"size": "mini"})["size"] == "mini"
