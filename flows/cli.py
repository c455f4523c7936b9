"""The `softgrpo` command: finds the module of a sub-command in `softgrpo.flows.command`, and imports only that one.

Exit codes: 0 done, 1 failed while running, 2 refused before anything ran, 128 + signal interrupted; docs/settings.md says more.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from softgrpo import __version__
from softgrpo.common.interruption import interruptible
from softgrpo.common.redaction import hide_passwords, traceback_text
from softgrpo.errors import ConfigError, nearest
from softgrpo.flows.command.parser import FORM, Parser, sub_parsers
from softgrpo.flows.runtime.failures import FAILED, OK, REFUSED, exit_code, explained, interruption, readable

if TYPE_CHECKING:
    from softgrpo.flows.command.common import Job

COMMANDS = {
    "run": "softgrpo.flows.command.run",
    "standalone": "softgrpo.flows.command.standalone",
    "pure": "softgrpo.flows.command.pure",
    "runs": "softgrpo.flows.command.runs",
    "compare": "softgrpo.flows.command.compare",
    "watch": "softgrpo.flows.command.watch",
    "open": "softgrpo.flows.command.open",
    "report": "softgrpo.flows.command.report",
    "recommend": "softgrpo.flows.command.recommend",
    "score": "softgrpo.flows.command.score",
    "refit": "softgrpo.flows.command.refit",
    "export": "softgrpo.flows.command.export",
    "windows": "softgrpo.flows.command.windows",
    "check-data": "softgrpo.flows.command.check_data",
    "init": "softgrpo.flows.command.init",
    "multi-recaller": "softgrpo.flows.command.multi_recaller",
    "ablate": "softgrpo.flows.command.ablate",
    "tune": "softgrpo.flows.command.tune",
    "config": "softgrpo.flows.command.config",
    "doctor": "softgrpo.flows.command.doctor",
    "services": "softgrpo.flows.command.services",
    "deploy": "softgrpo.flows.command.deploy",
    "stop": "softgrpo.flows.command.stop",
    "env": "softgrpo.flows.command.env",
    "completion": "softgrpo.flows.command.completion",
}
"""Each sub-command and its module, which has `add_parser(commands, words)` and `prepare(arguments) -> Job`."""
ENDING = ("-h", "--help", "--version")
"""Flags that need no sub-command: the program prints something and ends."""

DESCRIPTION = """\
softgrpo: a language model learns, for each user, how much to trust each recaller of a recommender system.

  softgrpo run DATASET STAGE SIZE    the pipeline, or a part of it:  softgrpo run ml-100k full tiny
  softgrpo standalone                the same in one process, without Prefect and MLflow
  softgrpo pure --do_test ...        the original flags
  softgrpo runs                      the runs that are stored, the newest first
  softgrpo watch [RUN]               how far a run is, live, from another terminal
  softgrpo open RUN                  its report and its pages in MLflow and Prefect, in the browser
  softgrpo report RUN                the report of a run: table, page, figures
  softgrpo recommend RUN             what a trained run recommends, with each recaller's part in it
  softgrpo score RUN --latest        the same for the histories of now, new users included
  softgrpo export RUN --to FOLDER    the policy of a run as a folder to hand on: model, model card, ONNX
  softgrpo compare RUN RUN ...       several runs in one table, with intervals
  softgrpo multi-recaller DATASET STAGE SIZE    pools of recallers compared; each recaller is trained once
  softgrpo ablate NAME DATASET STAGE SIZE    what a part of the method is worth: runs without it in one table
  softgrpo tune DATASET STAGE SIZE   the best settings of SofT-GRPO on validation windows
  softgrpo refit RUN                 the recallers of a run trained again on everything up to now
  softgrpo windows DATASET --to FOLDER    what a recaller of your own has to score
  softgrpo check-data PATH           what is understood of your own data, and the command that runs them
  softgrpo init DATASET              writes a commented file of settings for your data, which --config reads
  softgrpo config DATASET SIZE       the settings of a run, explained (--settings: all defaults)
  softgrpo doctor                    what is installed, which device, which data and models are found
  softgrpo services                  starts Prefect's server, MLflow's server and a worker on this machine
  softgrpo deploy                    registers the deployments at these servers
  softgrpo stop                      ends them
  softgrpo env                       lets a shell find them:  eval "$(softgrpo env)"
  softgrpo completion SHELL          lets bash, zsh or fish complete all this

`softgrpo COMMAND --help` explains a command. Exit codes: 0 done, 1 failed while running, 2 refused before anything ran,
130 interrupted."""


def build_parser(words: Sequence[str], commands: Iterable[str]) -> Parser:
    """Returns the parser of the command line.

    Args:
        words: The command line.
        commands: The sub-commands that it knows; their modules are imported.
    """
    parser = Parser(prog="softgrpo", description=DESCRIPTION, usage=FORM)
    parser.add_argument("--version", action="version", version=f"softgrpo {__version__}")
    added = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, help=argparse.SUPPRESS)
    for command in commands:
        import_module(COMMANDS[command]).add_parser(added, words)
    return parser


def prepare(words: Sequence[str]) -> Job:
    """Returns the job of a command line.

    Raises:
        SoftGRPOError: It cannot be done; nothing was written.
    """
    if not words:
        known = f"The form is: softgrpo COMMAND; known: {', '.join(COMMANDS)}"
        raise ConfigError("No COMMAND", known, "`softgrpo --help` explains them", code="CONFIG-005")
    first = words[0]
    if not first.startswith("-") and first not in COMMANDS:
        rule = "There is no such command; `softgrpo --help` explains them"
        raise ConfigError(f"Command '{first}'", rule, nearest(first, COMMANDS), code="CONFIG-004")
    if first in ENDING:
        build_parser(words, ()).parse_args(words)  # ends the process, before settings are imported
    from softgrpo.flows.command.defaults import explain_usual
    from softgrpo.flows.command.flags import complete_switches, refuse_unknown

    completed = complete_switches(words)
    # a flag before the command may take a word, so that only a parser of all commands can tell which it is
    parser = build_parser(completed, [first] if first in COMMANDS else COMMANDS)
    explain_usual(parser, completed)
    arguments, unknown = parser.parse_known_args(completed)
    if unknown:
        refuse_unknown(unknown, words, arguments.command, sub_parsers(build_parser(completed, COMMANDS)))
    job: Job = import_module(COMMANDS[arguments.command]).prepare(arguments)
    return job


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
        from softgrpo.flows.command.completion import complete, typed_words

        complete(build_parser(typed_words(), COMMANDS))
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
