"""What can be typed: the sub-commands, their help, and the flags of each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flows.command.flags import Parser, add_settings
from softgrpo import __version__
from softgrpo.presets.ablations import ABLATIONS

PURE_STAGES = {"gen_sft_data": "data", "do_sft": "sft", "do_grpo": "grpo", "do_test": "test"}
"""The original flags that ask for a stage."""
REPEATABLE = ("split", "recall", "data", "check", "sft", "grpo", "test")
"""The stages that --force takes."""

DESCRIPTION = """\
softgrpo: a language model learns, for each user, how much to trust each recaller of a recommender system.

  softgrpo run DATASET STAGE SIZE    the pipeline, or a part of it:  softgrpo run ml-100k full tiny
  softgrpo standalone                the same in one process, without Prefect and MLflow
  softgrpo pure --do_test ...        the original flags
  softgrpo runs                      the runs that are stored, the newest first
  softgrpo report RUN                the report of a run: table, page, figures
  softgrpo recommend RUN             what a trained run recommends, with each recaller's part in it
  softgrpo compare RUN RUN ...       several runs in one table, with intervals
  softgrpo multi-recaller DATASET STAGE SIZE    pools of recallers compared; each recaller is trained once
  softgrpo ablate NAME DATASET STAGE SIZE    what a part of the method is worth: runs without it in one table
  softgrpo tune DATASET STAGE SIZE   the best settings of SofT-GRPO on validation windows
  softgrpo windows DATASET --to FOLDER    what a recaller of your own has to score
  softgrpo config DATASET SIZE       the settings of a run, explained (--settings: all defaults)
  softgrpo doctor                    what is installed, which device, which data and models are found
  softgrpo deploy                    registers the deployments at the servers that `make services` started
  softgrpo completion SHELL          lets bash, zsh or fish complete all this

`softgrpo COMMAND --help` explains a command. Exit codes: 0 done, 1 failed while running, 2 refused before anything ran,
130 interrupted."""

RUN = """\
Runs the pipeline recall -> data -> check -> sft -> grpo -> test. Finished stages are reused.

  DATASET  a dataset with a preset, or any folder of RecBole atomic files in the data path
  STAGE    the last stage wanted: recall, data, check (nothing leaks), sft, grpo or test
           full         everything
           standalone   everything, without Prefect and MLflow
           debug        everything on a small subset
  SIZE     the language model: tiny, mini, small or large (`softgrpo doctor` says where they come from)"""

PURE = """\
Takes the original flags. Each stage is run with what it needs before it; finished stages are reused.
The model is Qwen2.5-0.5B-Instruct unless --model-name or --size says otherwise."""

RUNS = """\
Lists the runs of pipelines that are stored, the newest first: the beginnings of their ids, which other commands take as RUN, when
they were started, their recallers and seeds, how they ended, and what SofT-GRPO multi got on the test windows."""

COMPARE = """\
Puts runs of whole pipelines into one table: all rows of all runs, on the same test windows.

  RUN  id of the MLflow run of a pipeline, as `softgrpo run` prints it. The first run holds what others are compared with."""

REPORT = """\
Shows the comparison table of a run and says where its report is: an HTML page with figures, and the same in Markdown.

  RUN  id of the MLflow run of a whole pipeline, as `softgrpo run` prints it"""

RECOMMEND = """\
Merges the candidate lists that a trained run stored with the weights that its policy gave to each user: the next items at the
time of the user's test window, and how much of each item's score came from which recaller. A user without a test window gets
the best static mixture, and the output says so. The lists of chosen users, up to ten, are shown and written only where --to says.

  RUN  id of the MLflow run of a pipeline that trained a policy, as `softgrpo run` prints it"""

WINDOWS = """\
Writes what a recaller of your own has to score, as three Parquet files: windows, history (what may be looked at, and what may be
trained on) and items. Its lists join a pool with --recall.files.NAME FILE, see docs/own-recaller.md."""

DEPLOY = """\
Registers all flows as deployments at the running Prefect server of the output folder, as `make deploy` does. `make services`
starts that server; without it the command ends with 1."""

COMPLETION = """\
Prints the lines that let a shell complete commands, stages, datasets, flags and their values with the tab key.

  SHELL  bash, zsh or fish

In the file that your shell reads at its start:
  ~/.bashrc                   eval "$(softgrpo completion bash)"
  ~/.zshrc                    autoload -Uz compinit && compinit && eval "$(softgrpo completion zsh)"
  ~/.config/fish/config.fish  softgrpo completion fish | source"""

MULTI_RECALLER = """\
Runs the whole pipeline for several pools of recallers and puts all of them into one table, on the same test windows.
Each recaller is trained once.

  STAGE  full, or debug for a small subset of the data

Without --pools: the recallers of the preset (or --recbole_models) all together, and each pair of them."""

ABLATE = f"""\
Runs the pipeline as it is and once for each variant of an ablation, and puts all of them into one table, on the same test
windows. Stages that a variant does not touch are made once.

  NAME   {", ".join(ABLATIONS)}
  STAGE  full, or debug for a small subset of the data"""

TUNE = """\
Looks for the settings of SofT-GRPO (learning rate, tau_gumbel, top_p, epsilon, beta) with the best NDCG on validation
windows, then runs the whole pipeline with them. The same command goes on where it was interrupted.

  STAGE  full, or debug for a small subset of the data"""

STANDALONE = "Runs the whole pipeline in this process, without Prefect and MLflow. Finished stages are reused."


def _add_where(parser: Parser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("outputs"), metavar="FOLDER", help="where results go (default outputs)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")


def _add_hands(parser: Parser) -> None:
    parser.add_argument(
        "--parallel",
        type=int,
        metavar="N",
        help="recallers trained at once, each in a process with its share of the cores (default: one for every two cores)",
    )
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="run the stages on the Dask cluster whose scheduler is there, tcp://HOST:8786"
    )


def _add_run_options(parser: Parser, words: Sequence[str], *, with_mlflow: bool = True) -> None:
    _add_where(parser)
    if with_mlflow:
        parser.add_argument(
            "--from-run",
            "--from_run",
            metavar="RUN",
            help="MLflow run, of a pipeline or of a stage, whose stages are used for those before STAGE",
        )
        _add_hands(parser)
    else:
        parser.set_defaults(from_run=None, parallel=None, dask=None)
    parser.add_argument(
        "--force", nargs="+", default=(), metavar="STAGE", help="stages to repeat although they are stored"
    )
    _add_json(parser)
    add_settings(parser, words)


def _add_results(commands: argparse._SubParsersAction[Parser], words: Sequence[str]) -> None:
    """Adds the commands that read what runs have stored, and the one that says what to score."""
    usage = "softgrpo runs [--most N] [--json]"
    runs = commands.add_parser("runs", prog="softgrpo runs", description=RUNS, usage=usage)
    runs.add_argument("--most", type=int, default=20, metavar="N", help="how many at most (default 20)")

    usage = "softgrpo compare RUN RUN ... [--seeds] [--to FOLDER [--overwrite]] [--json]"
    compare = commands.add_parser("compare", prog="softgrpo compare", description=COMPARE, usage=usage)
    compare.add_argument("RUN", nargs="+", help=argparse.SUPPRESS)
    compare.add_argument(
        "--seeds", action="store_true", help="the runs differ in their seeds alone: average them, with their spread"
    )
    compare.add_argument("--to", type=Path, metavar="FOLDER", help="write an HTML page and the table as Parquet there")

    usage = "softgrpo report RUN [--to FOLDER [--overwrite]] [--open] [--json]"
    report = commands.add_parser("report", prog="softgrpo report", description=REPORT, usage=usage)
    report.add_argument("--to", type=Path, metavar="FOLDER", help="copy the report with its figures and tables there")
    report.add_argument("--open", action="store_true", help="open the page in the browser")

    usage = "softgrpo recommend RUN [--users USER ...] [--k N] [--to FILE [--overwrite]] [--json]"
    recommend = commands.add_parser("recommend", prog="softgrpo recommend", description=RECOMMEND, usage=usage)
    recommend.add_argument(
        "--users",
        nargs="+",
        metavar="USER",
        help="for these users, with spaces between them; all of the run without it",
    )
    recommend.add_argument(
        "--users-from", "--users_from", type=Path, metavar="FILE", help="for the users in a text file, one per line"
    )
    recommend.add_argument("--k", type=int, metavar="N", help="length of the lists (default: fusion.k of the run)")
    recommend.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help="a .parquet or .json file (default: for all users recommendations/RUN.parquet in the output folder, else none)",
    )
    for parser in (report, recommend):
        parser.add_argument("RUN", help=argparse.SUPPRESS)
    for parser in (runs, compare, report, recommend):
        _add_json(parser)
        _add_where(parser)

    usage = "softgrpo windows DATASET --to FOLDER [--overwrite] [--flag value ...]"
    windows = commands.add_parser("windows", prog="softgrpo windows", description=WINDOWS, usage=usage)
    windows.add_argument("DATASET", help=argparse.SUPPRESS)
    windows.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the files go")
    windows.add_argument("--debug", action="store_true", help="show the traceback of an error")
    _add_json(windows)
    add_settings(windows, words)
    for parser in (compare, report, recommend, windows):
        parser.add_argument("--overwrite", action="store_true", help="write over what is there at --to")


def _add_groups(commands: argparse._SubParsersAction[Parser], words: Sequence[str]) -> None:
    """Adds the commands that run several pipelines."""
    usage = "softgrpo multi-recaller DATASET STAGE SIZE [--pools A,B A,C ...] [--flag value ...]"
    several = commands.add_parser(
        "multi-recaller", prog="softgrpo multi-recaller", description=MULTI_RECALLER, usage=usage
    )
    several.add_argument(
        "--pools", nargs="+", metavar="A,B", help="the pools; the first is what the others are compared with"
    )
    usage = "softgrpo ablate NAME DATASET STAGE SIZE [--flag value ...]"
    ablate = commands.add_parser("ablate", prog="softgrpo ablate", description=ABLATE, usage=usage)
    ablate.add_argument("NAME", help=argparse.SUPPRESS)
    usage = "softgrpo tune DATASET STAGE SIZE [--trials N] [--flag value ...]"
    tune = commands.add_parser("tune", prog="softgrpo tune", description=TUNE, usage=usage)
    tune.add_argument(
        "--trials", type=int, default=20, metavar="N", help="trials in total, earlier ones included (default 20)"
    )
    tune.add_argument("--no-final", "--no_final", action="store_true", help="end with the search")
    for parser in (several, ablate, tune):
        for name in ("DATASET", "STAGE", "SIZE"):
            parser.add_argument(name, help=argparse.SUPPRESS)
        _add_where(parser)
        _add_hands(parser)
        _add_json(parser)
        add_settings(parser, words)


def build_parser(words: Sequence[str]) -> Parser:
    """Returns the parser of the whole command line."""
    parser = Parser(prog="softgrpo", description=DESCRIPTION, usage="softgrpo COMMAND [WORD ...] [--flag value ...]")
    parser.add_argument("--version", action="version", version=f"softgrpo {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, help=argparse.SUPPRESS)

    run = commands.add_parser(
        "run", prog="softgrpo run", description=RUN, usage="softgrpo run DATASET STAGE SIZE [--flag value ...]"
    )
    for name in ("DATASET", "STAGE", "SIZE"):
        run.add_argument(name, help=argparse.SUPPRESS)
    _add_run_options(run, words)

    pure = commands.add_parser(
        "pure", prog="softgrpo pure", description=PURE, usage="softgrpo pure STAGE-FLAG [--flag value ...]"
    )
    for flag, stage in PURE_STAGES.items():
        spellings = dict.fromkeys((f"--{flag}", f"--{flag.replace('_', '-')}"))
        pure.add_argument(*spellings, dest=flag, action="store_true", help=f"run up to the stage {stage}")
    _add_run_options(pure, words)

    standalone = commands.add_parser(
        "standalone", prog="softgrpo standalone", description=STANDALONE, usage="softgrpo standalone [--flag value ...]"
    )
    _add_run_options(standalone, words, with_mlflow=False)

    usage = "softgrpo config [DATASET] [SIZE] [--settings] [--flag value ...]"
    explained = "Prints the settings of a run as YAML, explained."
    config = commands.add_parser("config", prog="softgrpo config", description=explained, usage=usage)
    config.add_argument("DATASET", nargs="?", default="ml-100k", help="default ml-100k")
    config.add_argument("SIZE", nargs="?", default="tiny", help="default tiny")
    config.add_argument("--settings", action="store_true", help="print all flags with their defaults instead")
    config.add_argument("--debug", action="store_true", help="show the traceback of an error")
    _add_json(config)
    add_settings(config, words)

    _add_results(commands, words)
    _add_groups(commands, words)
    doctor = commands.add_parser("doctor", prog="softgrpo doctor", description="Says what is installed and found.")
    _add_json(doctor)
    doctor.add_argument("--data-path", "--data_path", type=Path, metavar="FOLDER", help="where to look for datasets")
    _add_where(doctor)

    deploy = commands.add_parser("deploy", prog="softgrpo deploy", description=DEPLOY)
    _add_json(deploy)
    _add_where(deploy)

    completion = commands.add_parser(
        "completion", prog="softgrpo completion", description=COMPLETION, usage="softgrpo completion SHELL"
    )
    completion.add_argument("SHELL", help=argparse.SUPPRESS)
    return parser


def sub_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Returns the parser of each command."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found
