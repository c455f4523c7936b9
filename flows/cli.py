"""The `softgrpo` command. What a sub-command needs is imported when it runs, so that `--help` is quick.

Exit codes: 0 done, 1 failed while running, 2 refused before anything ran, 128 + signal interrupted; docs/settings.md says more.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.command.defaults import check_known, data_named, explain_usual
from flows.command.doctor import as_text, examine, is_healthy
from flows.command.flags import complete_switches, listing, overrides, refuse_unknown
from flows.command.parser import PURE_STAGES, build_parser, sub_parsers
from flows.command.result_commands import Job, compare_job, print_json, recommend_job, report_job, windows_job
from flows.command.run import check_stage, pipeline_job
from flows.command.runs import runs_job
from flows.runtime.environment import check_output, check_servers
from flows.runtime.failures import FAILED, OK, REFUSED, exit_code, explained, interruption, readable
from softgrpo.common.interruption import interruptible
from softgrpo.common.redaction import hide_passwords, traceback_text
from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError, nearest
from softgrpo.presets import resolve, settings
from softgrpo.presets.ablations import check_ablation
from softgrpo.presets.settings import shown

if TYPE_CHECKING:
    from flows.command.groups import Wanted

STAGES = ("recall", "data", "check", "sft", "grpo", "test", "full", "standalone", "debug")
GROUP_STAGES = ("full", "debug")


def _resolve(arguments: argparse.Namespace, dataset: str, stage: str, size: str) -> ExperimentConfig:
    """Returns the configuration; --dataset and --size win over the positions, with their presets."""
    said = overrides(arguments)
    return resolve(said.get("data.dataset", dataset), said.get("policy.size", size), stage, said)


def prepare_run(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo run DATASET STAGE SIZE`."""
    stage = check_stage(arguments.STAGE, STAGES)
    config = _resolve(arguments, arguments.DATASET, stage, arguments.SIZE)
    until = "test" if stage in ("full", "standalone", "debug") else stage
    return pipeline_job(arguments, config, until, standalone=stage == "standalone")


def prepare_standalone(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo standalone`."""
    return pipeline_job(arguments, _resolve(arguments, "ml-100k", "standalone", "tiny"), "test", standalone=True)


def prepare_pure(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo pure`; the preset small holds the original command line's defaults."""
    asked = [stage for flag, stage in PURE_STAGES.items() if vars(arguments)[flag]]
    if not asked:
        flags = ", ".join(f"--{flag}" for flag in PURE_STAGES)
        raise ConfigError("No stage", f"At least one of {flags} must be given", "Add one; --do_test runs everything")
    return pipeline_job(arguments, _resolve(arguments, "ml-100k", "full", "small"), asked[-1], standalone=False)


def prepare_config(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo config`."""
    if not arguments.settings:
        check_known(data_named(arguments))
    config = _resolve(arguments, arguments.DATASET, "full", arguments.SIZE)
    values = config.model_dump(mode="json")
    flat = {
        path: values[path] if "." not in path else values[path.split(".")[0]][path.split(".")[1]] for path in settings()
    }

    def job() -> int:
        if arguments.settings:
            _list_settings(as_json=arguments.json)
        elif arguments.json:
            print_json(flat)
        else:
            print(listing(flat))
        return OK

    return job


def _list_settings(*, as_json: bool) -> None:
    """Prints every setting with its default and what it does."""
    if as_json:
        names = ("path", "choices", "default", "description")
        print_json([{name: vars(setting)[name] for name in names} for setting in settings().values()])
        return
    for setting in settings().values():
        choices = f" [{', '.join(setting.choices)}]" if setting.choices else ""
        print(f"--{setting.path} (default {shown(setting.default) or '-'}){choices}\n    {setting.description}")


def prepare_windows(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo windows`."""
    return windows_job(arguments, _resolve(arguments, arguments.DATASET, "full", "tiny"))


def prepare_completion(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo completion`."""
    from flows.command.completion import SHELLS, script

    if arguments.SHELL not in SHELLS:
        raise ConfigError(f"Shell '{arguments.SHELL}'", "Its completion is not known", nearest(arguments.SHELL, SHELLS))

    def job() -> int:
        print(script(arguments.SHELL))
        return OK

    return job


def _wanted(arguments: argparse.Namespace) -> Wanted:
    """Returns what the commands of several pipelines work on; --dataset and --size win over the positions."""
    from flows.command.groups import Wanted
    from tasks.servers.addresses import check_workers

    stage, said = check_stage(arguments.STAGE, GROUP_STAGES), overrides(arguments)
    dataset, size = said.pop("data.dataset", arguments.DATASET), said.pop("policy.size", arguments.SIZE)
    check_output(arguments.output)
    check_workers(arguments.parallel, arguments.dask)
    check_servers()
    return Wanted(
        dataset,
        size,
        stage,
        said,
        arguments.output,
        arguments.debug,
        arguments.json,
        arguments.parallel,
        arguments.dask,
    )


def prepare_multi_recaller(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo multi-recaller DATASET STAGE SIZE`."""
    from flows.command.groups import multi_recaller_job

    return multi_recaller_job(_wanted(arguments), arguments.pools)


def prepare_ablate(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo ablate NAME DATASET STAGE SIZE`."""
    from flows.command.groups import ablate_job

    return ablate_job(_wanted(arguments), check_ablation(arguments.NAME))


def prepare_tune(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo tune DATASET STAGE SIZE`."""
    from flows.command.groups import tune_job

    return tune_job(_wanted(arguments), arguments.trials, final=not arguments.no_final)


def prepare_doctor(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo doctor`."""

    def job() -> int:
        found = examine(arguments.data_path, arguments.output)
        if arguments.json:
            print_json(found)
        else:
            print(as_text(found))
        return OK if is_healthy(found) else FAILED

    return job


def prepare_deploy(arguments: argparse.Namespace) -> Job:
    """Checks `softgrpo deploy`."""
    from flows.services.control import deploy, find_services

    services = find_services(arguments.output)

    def job() -> int:
        told = deploy(services)
        if arguments.json:
            print_json(services.addresses)
        else:
            print(told)
        return OK

    return job


COMMANDS = {
    "run": prepare_run,
    "standalone": prepare_standalone,
    "pure": prepare_pure,
    "runs": runs_job,
    "compare": compare_job,
    "report": report_job,
    "recommend": recommend_job,
    "windows": prepare_windows,
    "multi-recaller": prepare_multi_recaller,
    "ablate": prepare_ablate,
    "tune": prepare_tune,
    "config": prepare_config,
    "doctor": prepare_doctor,
    "deploy": prepare_deploy,
    "completion": prepare_completion,
}


def prepare(words: Sequence[str]) -> Job:
    """Returns what a command line asks for.

    Raises:
        SoftGRPOError: It cannot be done; nothing was written.
    """
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        raise ConfigError(
            f"Command '{words[0]}'",
            "There is no such command; `softgrpo --help` explains them",
            nearest(words[0], COMMANDS),
        )
    if not words:
        raise ConfigError(
            "No COMMAND",
            f"The form is: softgrpo COMMAND; known: {', '.join(COMMANDS)}",
            "`softgrpo --help` explains them",
        )
    completed = complete_switches(words)
    parser = build_parser(completed)
    explain_usual(parser, completed)
    arguments, unknown = parser.parse_known_args(completed)
    refuse_unknown(unknown, words, arguments.command, sub_parsers(parser))
    return COMMANDS[arguments.command](arguments)


def _prepare_streams(*, as_json: bool) -> None:
    """Lets standard output replace what it cannot encode, and keeps libraries' bars out of files and from beside JSON."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if as_json or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers follows it, in other processes too


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: The command line without the program's name; None takes this process's.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    hide_passwords()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could be typed
        from flows.command.completion import complete

        complete(STAGES, GROUP_STAGES)
    _prepare_streams(as_json="--json" in words)
    code = REFUSED
    try:
        with interruptible():
            job = prepare(words)
            code = FAILED
            return job()
    except KeyboardInterrupt as signalled:
        print(f"\nsoftgrpo: {interruption(signalled)}", file=sys.stderr)
        return exit_code(signalled)
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:  # broad: this is the last place that can say something to people, and it hides nothing
        if "--debug" in words:
            print(traceback_text(error), file=sys.stderr, end="")
        print(f"softgrpo: {readable(error)}", file=sys.stderr)
        return FAILED if explained(error) is None else code


if __name__ == "__main__":
    sys.exit(main())
