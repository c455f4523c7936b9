"""The `softgrpo` command. What a sub-command needs is imported when it runs, so that `--help` is quick.

Exit codes: 0 done, 1 failed while running, 2 refused before anything ran, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.command_line import OTHER_FLAGS, PURE_STAGES, build_parser
from flows.doctor import as_text, examine, is_healthy, is_writable
from flows.options import complete_switches, listing, overrides, refuse_unknown
from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError, SoftGRPOError, StoreError, is_full_disk, nearest, no_space
from softgrpo.presets import resolve, settings
from softgrpo.presets.settings import shown

if TYPE_CHECKING:
    from flows.group_commands import Wanted
    from softgrpo.pipeline import RunResult

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
STAGES = ("recall", "data", "sft", "grpo", "test", "full", "standalone", "debug")
GROUP_STAGES = ("full", "debug")
REPEATABLE = ("split", "recall", "data", "sft", "grpo", "test")

Job = Callable[[], int]
"""What a sub-command does once its arguments are found to be right; returns the exit code."""


def _resolve(arguments: argparse.Namespace, dataset: str, stage: str, size: str) -> ExperimentConfig:
    """Returns the configuration; --dataset and --size win over the positions, with their presets."""
    said = overrides(arguments)
    return resolve(said.get("data.dataset", dataset), said.get("policy.size", size), stage, said)


def _check_stage(name: str, known: tuple[str, ...]) -> str:
    """Returns the name of a stage. `softgrpo.pipeline` checks it too, but takes seconds to import."""
    if name not in known:
        raise ConfigError(f"Stage '{name}'", "There is no such stage", nearest(name, known))
    return name


def _check_output(output: Path) -> None:
    if not is_writable(output):
        raise StoreError(
            f"--output {output}",
            "It must be a folder that takes new files",
            "Name another folder, or give yourself the right to write",
        )


def _announce(result: RunResult, k: int) -> None:
    """Prints the comparison and where things are; k is the cut-off that the comparison is about."""
    if result.table is not None:
        from flows.console import print_table
        from softgrpo.evaluation.report import render_terminal

        print_table(render_terminal(result.table, k))
    rows = dict(result.links)
    rows |= {f"{name} model": str(result.folders[name]) for name in ("sft", "grpo") if name in result.folders}
    rows["stages run"] = ", ".join(name for name in result.folders if name not in result.reused) or "none"
    rows["stages reused"] = ", ".join(result.reused) or "none"
    width = max(map(len, rows))
    for label, value in rows.items():
        print(f"{label:<{width}}  {value}")


def _pipeline_job(arguments: argparse.Namespace, config: ExperimentConfig, until: str, *, standalone: bool) -> Job:
    """Returns the run of a checked configuration."""
    from softgrpo.preflight import preflight

    force = tuple(_check_stage(name, REPEATABLE) for name in arguments.force)
    _check_output(arguments.output)
    if standalone and arguments.from_run:
        raise ConfigError("--from-run", "A standalone run knows no MLflow", "Leave it out, or run the stage full")
    for note in preflight(config, until):
        print(f"note: {note}", file=sys.stderr)

    def job() -> int:
        if standalone:
            from flows.console import make_readable
            from softgrpo.pipeline import run_standalone

            make_readable(arguments.debug)
            _announce(run_standalone(config, until, force, arguments.output), config.fusion.k)
        else:
            from flows.pipeline import run_pipeline

            result = run_pipeline(config, until, force, arguments.output, arguments.from_run, arguments.debug)
            _announce(result, config.fusion.k)
        return OK

    return job


def prepare_run(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo run DATASET STAGE SIZE`."""
    stage = _check_stage(arguments.STAGE, STAGES)
    config = _resolve(arguments, arguments.DATASET, stage, arguments.SIZE)
    until = "test" if stage in ("full", "standalone", "debug") else stage
    return _pipeline_job(arguments, config, until, standalone=stage == "standalone")


def prepare_standalone(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo standalone`."""
    return _pipeline_job(arguments, _resolve(arguments, "ml-100k", "standalone", "tiny"), "test", standalone=True)


def prepare_pure(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo pure`; the preset small holds the original command line's defaults."""
    asked = [stage for flag, stage in PURE_STAGES.items() if vars(arguments)[flag]]
    if not asked:
        flags = ", ".join(f"--{flag}" for flag in PURE_STAGES)
        raise ConfigError("No stage", f"At least one of {flags} must be given", "Add one; --do_test runs everything")
    return _pipeline_job(arguments, _resolve(arguments, "ml-100k", "full", "small"), asked[-1], standalone=False)


def prepare_config(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo config`."""
    config = _resolve(arguments, arguments.DATASET, "full", arguments.SIZE)
    values = config.model_dump(mode="json")
    flat = {
        path: values[path] if "." not in path else values[path.split(".")[0]][path.split(".")[1]] for path in settings()
    }

    def job() -> int:
        if arguments.settings:
            for setting in settings().values():
                choices = f" [{', '.join(setting.choices)}]" if setting.choices else ""
                print(f"--{setting.path} (default {shown(setting.default) or '-'}){choices}\n    {setting.description}")
        else:
            print(listing(flat))
        return OK

    return job


def prepare_compare(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo compare`."""
    from flows.compare import compare_stored_runs

    _check_output(arguments.output)
    compared = compare_stored_runs(arguments.RUN, arguments.output)

    def job() -> int:
        if arguments.json:
            rows = json.loads(compared.table.to_json(orient="records"))
            print(json.dumps({"rows": rows, "verdicts": compared.verdicts, "link": compared.link}, indent=2))
            return OK
        from flows.console import print_table
        from softgrpo.evaluation.report import render_terminal

        print_table(render_terminal(compared.table, compared.k, "the best single recaller of the first run"))
        print(*compared.verdicts, sep="\n")
        print(compared.link or "make services shows the runs side by side")
        return OK

    return job


def _wanted(arguments: argparse.Namespace) -> Wanted:
    """Returns what `multi-recaller` and `tune` work on; --dataset and --size win over the positions."""
    from flows.group_commands import Wanted

    stage, said = _check_stage(arguments.STAGE, GROUP_STAGES), overrides(arguments)
    dataset, size = said.pop("data.dataset", arguments.DATASET), said.pop("policy.size", arguments.SIZE)
    _check_output(arguments.output)
    return Wanted(dataset, size, stage, said, arguments.output, arguments.debug)


def prepare_multi_recaller(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo multi-recaller DATASET STAGE SIZE`."""
    from flows.group_commands import multi_recaller_job

    return multi_recaller_job(_wanted(arguments), arguments.pools)


def prepare_tune(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo tune DATASET STAGE SIZE`."""
    from flows.group_commands import tune_job

    return tune_job(_wanted(arguments), arguments.trials, final=not arguments.no_final)


def prepare_doctor(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo doctor`."""

    def job() -> int:
        found = examine(arguments.data_path, arguments.output)
        print(json.dumps(found, indent=2) if arguments.json else as_text(found))
        return OK if is_healthy(found) else FAILED

    return job


COMMANDS = {
    "run": prepare_run,
    "standalone": prepare_standalone,
    "pure": prepare_pure,
    "compare": prepare_compare,
    "multi-recaller": prepare_multi_recaller,
    "tune": prepare_tune,
    "config": prepare_config,
    "doctor": prepare_doctor,
}


def prepare(words: Sequence[str]) -> Job:
    """Returns what a command line asks for.

    Raises:
        SoftGRPOError: It cannot be done; nothing was written.
    """
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        raise ConfigError(f"Command '{words[0]}'", "There is no such command", nearest(words[0], COMMANDS))
    words = complete_switches(words)
    arguments, unknown = build_parser(words).parse_known_args(words)
    refuse_unknown(unknown, OTHER_FLAGS)
    return COMMANDS[arguments.command](arguments)


def _readable(error: Exception) -> str:
    """Returns what people are told about an error."""
    if isinstance(error, SoftGRPOError):
        return str(error)
    if is_full_disk(error):
        return str(no_space())
    if isinstance(error, OSError):
        rule = "Files that a run reads and writes must be accessible"
        return str(
            StoreError(
                f"The system refused: {error}", rule, "Mend it and repeat the command; --debug shows where it happened"
            )
        )
    message = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
    kept = "Finished stages are kept; the same command goes on from there"
    return f"unexpected error, probably a fault of softgrpo: {message}. {kept}. --debug shows the traceback."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: The command line without the program's name; None takes this process's.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    code = REFUSED
    try:
        job = prepare(words)
        code = FAILED
        return job()
    except KeyboardInterrupt:
        print(
            "\nsoftgrpo: interrupted. Finished stages are kept; the same command goes on from there.", file=sys.stderr
        )
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:  # broad: this is the last place that can say something to people, and it hides nothing
        if "--debug" in words:
            traceback.print_exc()
        print(f"softgrpo: {_readable(error)}", file=sys.stderr)
        return code if isinstance(error, SoftGRPOError | OSError) else FAILED


if __name__ == "__main__":
    sys.exit(main())
