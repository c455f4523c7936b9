"""The door: settings in which configurations differ, environment, unwritable folders, console lines."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import softgrpo.flows.runtime.console
from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError, StoreError
from softgrpo.flows.runtime import tether
from softgrpo.flows.runtime.console import RUN_LOGGERS, attach_run_logging, make_readable
from softgrpo.flows.runtime.environment import check_writable, prepare
from softgrpo.presets import resolve
from softgrpo.presets.changes import difference

CHANGES: list[dict[str, Any]] = [
    {},
    {"seed": 7},
    {"sft.learning_rate": 1e-3, "evaluation.ks": [5, 10]},
    {"recall.recallers": ["BPR", "Pop"], "recall.settings": {"Pop": {}}, "data.data_path": "somewhere"},
]


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("stage", ["full", "debug"])
def test_the_flow_resolves_the_same_configuration_again(changes: dict[str, Any], stage: str) -> None:
    base = resolve("ml-100k", "tiny", stage=stage)
    if "recall.settings" in changes:  # a preset's settings of recallers that are no longer in the pool would be refused
        changes = {**changes, "recall.recallers": [*base.recall.recallers, "Pop"]}
    config = resolve("ml-100k", "tiny", stage=stage, overrides=changes)
    again = resolve("ml-100k", "tiny", overrides=difference(config, resolve("ml-100k", "tiny")))
    assert again == config


def test_difference_is_empty_between_equals_and_names_what_differs() -> None:
    base = ExperimentConfig()
    other = base.model_copy(update={"sft": base.sft.model_copy(update={"learning_rate": 1e-3})})
    assert difference(base, base) == {}
    assert difference(other, base) == {"sft.learning_rate": 1e-3}


def test_prepare_sets_only_what_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"PREFECT_LOGGING_LEVEL": "DEBUG"})
    import os

    prepare(tmp_path / "new")
    assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "new" / "prefect")
    assert list((tmp_path / "new").iterdir()) == []
    monkeypatch.setattr("os.environ", {"PREFECT_API_URL": "http://localhost:4200/api"})
    monkeypatch.setattr("softgrpo.flows.runtime.environment.check_answers", lambda uri, name: None)
    prepare(tmp_path)
    assert "PREFECT_HOME" not in os.environ


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be written"):
        check_writable(tmp_path / "file" / "output")


def test_importing_the_door_loads_neither_prefect_nor_mlflow() -> None:
    code = "import sys, flows.start; print(sorted({'prefect', 'mlflow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def restored_loggers() -> Iterator[None]:
    """Puts handlers and levels back."""
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.getLogger().manager.loggerDict))]
    before = [(logger, list(logger.handlers), logger.level) for logger in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers = handlers
        logger.setLevel(level)


def report(logger: str, level: int, file: Path = Path("library.py")) -> None:
    """Logs an error with its traceback, as if by a line of that file."""
    try:
        raise ValueError("a bug")
    except ValueError:
        record = logging.LogRecord(logger, level, str(file), 1, "it happened", None, sys.exc_info())
    logging.getLogger(logger).handle(record)


@pytest.mark.usefixtures("restored_loggers")
def test_the_console_shows_no_traceback_unless_it_is_asked_for(tmp_path: Path) -> None:
    loud = logging.getLogger("trial.loud")  # has a handler for the console of its own, as mlflow
    loud.addHandler(logging.StreamHandler())
    loud.propagate = False
    kept = logging.FileHandler(tmp_path / "log")
    loud.addHandler(kept)
    for debug, tracebacks in ((False, 0), (True, 4)):
        make_readable(debug)
        with redirect_stderr(io.StringIO()) as shown:
            for name in ("trial", "trial.loud"):
                report(name, logging.ERROR)
                report(name, logging.WARNING)
        assert shown.getvalue().count("Traceback") == tracebacks
        assert shown.getvalue().count("it happened") == (2 if not debug else 4)
        assert "| it happened\n" in shown.getvalue()
    kept.close()
    assert (tmp_path / "log").read_text().count("Traceback") == 4


@pytest.mark.usefixtures("restored_loggers")
def test_of_a_run_the_console_shows_what_stages_say_and_not_what_prefect_notes() -> None:
    ours, prefects = Path(flows.runtime.console.__file__), Path("site-packages/prefect/flow_engine.py")
    make_readable()
    attach_run_logging()
    with redirect_stderr(io.StringIO()) as shown:
        for name in RUN_LOGGERS:
            for file, message in ((ours, "sft: running"), (prefects, "Finished in state Completed()")):
                logging.getLogger(name).handle(logging.LogRecord(name, 20, str(file), 1, message, None, None))
    assert shown.getvalue().count(" | sft: running\n") == len(RUN_LOGGERS)
    assert "Finished" not in shown.getvalue()


@pytest.mark.usefixtures("restored_loggers")
def test_a_second_call_doubles_no_line() -> None:
    make_readable()
    make_readable()
    with redirect_stderr(io.StringIO()) as shown:
        logging.getLogger("softgrpo.trial").info("once")
    assert shown.getvalue().count("once") == 1


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_what_is_tethered_ends_with_the_process_that_started_it(how: str, tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text("import sys, time\nprint(sys.argv, flush=True)\ntime.sleep(60)")
    code = f"""if True:
        import subprocess, sys, time
        command = [sys.executable, "-P", {tether.__file__!r}, {str(tmp_path / "sleeper.py")!r}, "--port", "1"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE)
        print(child.pid, flush=True)
        time.sleep(60)"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        # the file's own name, then its arguments, as with `python FILE`
        assert parent.stdout.readline().strip() == str([str(tmp_path / "sleeper.py"), "--port", "1"])
        (parent.kill if how == "killed" else parent.terminate)()
        _, alive = psutil.wait_procs([child], timeout=5)
        assert alive == []


def test_the_flow_itself_refuses_bad_input_and_the_command_checks_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from softgrpo.flows import pipeline

    checked: list[str] = []
    monkeypatch.setattr(pipeline, "execute", lambda *arguments, **options: checked.append("executed"))
    monkeypatch.setattr(pipeline, "preflight", lambda config, until: checked.append(until) or ["a note"])
    pipeline.softgrpo_flow(until="data", output=tmp_path)
    pipeline.softgrpo_flow(until="data", output=tmp_path, check=False)
    assert checked == ["data", "executed", "executed"]
    checked.clear()
    pipeline.softgrpo_flow(debug=True, output=tmp_path)
    assert checked == ["test", "executed"]

    def refuse(config: ExperimentConfig, until: str) -> list[str]:
        raise ConfigError("a", "b", "c", code="CONFIG-000")

    monkeypatch.setattr(pipeline, "preflight", refuse)
    with pytest.raises(ConfigError):
        pipeline.softgrpo_flow(output=tmp_path / "refused")
    assert checked == ["test", "executed"]
    assert not (tmp_path / "refused").exists()


def test_the_command_passes_its_configuration_and_shows_the_parameters_of_the_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.runtime import flow_run

    import softgrpo.flows.pipeline as recipe

    shown: list[Any] = []
    monkeypatch.setattr(recipe, "resolve", lambda *words: pytest.fail("a resolved configuration is not resolved again"))
    monkeypatch.setattr(
        recipe, "execute", lambda nodes, config, *others, **options: shown.append((config, flow_run.parameters))
    )
    config = resolve("ml-1m", "mini", overrides={"seed": 7})
    nowhere = {"check": False, "parallel": None, "dask": None}
    body = partial(recipe.run_softgrpo, config, "data", (), tmp_path, None, **nowhere)
    command_flow = recipe.with_body(recipe.softgrpo_flow, body)
    command_flow("ml-1m", size="mini", until="data", overrides={"seed": 7}, output=tmp_path, check=False)
    ((passed, parameters),) = shown
    assert passed is config
    form = {"data_path", "debug", "recallers", "frequent", "config", "force", "from_run", *nowhere}
    assert parameters.keys() == form | {"dataset", "size", "until", "overrides", "output"}
    assert (parameters["dataset"], parameters["size"], parameters["until"]) == ("ml-1m", "mini", "data")
    assert parameters["overrides"] == {"seed": 7}
    assert command_flow.name == recipe.softgrpo_flow.name


def test_deployments_name_a_flow_that_exists_and_parameters_it_takes() -> None:
    from softgrpo.flows.pipeline import softgrpo_flow
    from softgrpo.flows.refit import refit_flow
    from softgrpo.flows.score import score_flow
    from softgrpo.flows.tune import tune_flow
    from softgrpo.flows.variants import ablate_flow, multi_recaller_flow

    flows = {
        f"{flow.fn.__module__}:{flow.fn.__name__}": flow
        for flow in (softgrpo_flow, multi_recaller_flow, ablate_flow, tune_flow, refit_flow, score_flow)
    }
    deployments = yaml.safe_load(Path("deployments/prefect.yaml").read_text(encoding="utf-8"))
    assert next(iter(deployments["pull"][0])) == "prefect.deployments.steps.set_working_directory"
    names = []
    for deployment in deployments["deployments"]:
        flow = flows[deployment["entrypoint"]]
        assert flow.validate_parameters(deployment["parameters"])["dataset"] == "ml-100k"
        names.append(f"{flow.name}/{deployment['name']}")
    assert {
        "softgrpo/full",
        "softgrpo/refit",
        "softgrpo/score",
        "multi-recaller/compare-pools",
        "ablate/compare-parts",
        "tune/search-settings",
    } < set(names)
    assert len(set(names)) == len(names)
