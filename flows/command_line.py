"""What can be typed: the sub-commands, their help, and the flags of each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flows.options import Parser, add_settings
from softgrpo import __version__

PURE_STAGES = {"gen_sft_data": "data", "do_sft": "sft", "do_grpo": "grpo", "do_test": "test"}
"""The original flags that ask for a stage."""
OTHER_FLAGS = ("output", "force", "from_run", "debug", "json", "settings", "pools", "trials", "no_final", *PURE_STAGES)
"""The flags that are no settings."""

DESCRIPTION = """\
softgrpo: a language model learns, for each user, how much to trust each recaller of a recommender system.

  softgrpo run DATASET STAGE SIZE    the pipeline, or a part of it:  softgrpo run ml-100k full tiny
  softgrpo standalone                the same in one process, without Prefect and MLflow
  softgrpo pure --do_test ...        the original flags
  softgrpo compare RUN RUN ...       several runs in one table, with intervals
  softgrpo multi-recaller DATASET STAGE SIZE    pools of recallers compared; each recaller is trained once
  softgrpo tune DATASET STAGE SIZE   the best settings of SofT-GRPO on validation windows
  softgrpo config DATASET SIZE       the settings of a run, explained (--settings: all defaults)
  softgrpo doctor                    what is installed, which device, which data and models are found

`softgrpo COMMAND --help` explains a command."""

RUN = """\
Runs the pipeline recall -> data -> sft -> grpo -> test. Finished stages are reused.

  DATASET  a dataset with a preset, or any folder of RecBole atomic files in the data path
  STAGE    the last stage wanted: recall, data, sft, grpo or test
           full         everything
           standalone   everything, without Prefect and MLflow
           debug        everything on a small subset
  SIZE     the language model: tiny, mini, small or large (`softgrpo doctor` says where they come from)"""

PURE = """\
Takes the original flags. Each stage is run with what it needs before it; finished stages are reused.
The model is Qwen2.5-0.5B-Instruct unless --model-name or --size says otherwise."""

COMPARE = """\
Puts runs of whole pipelines into one table: all rows of all runs, on the same test windows.

  RUN  id of the MLflow run of a pipeline, as `softgrpo run` prints it. The first run holds what others are compared with."""

MULTI_RECALLER = """\
Runs the whole pipeline for several pools of recallers and puts all of them into one table, on the same test windows.
Each recaller is trained once.

  STAGE  full, or debug for a small subset of the data

Without --pools: the recallers of the preset (or --recbole_models) all together, and each pair of them."""

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


def _add_run_options(parser: Parser, words: Sequence[str], *, with_mlflow: bool = True) -> None:
    _add_where(parser)
    if with_mlflow:
        parser.add_argument(
            "--from-run",
            "--from_run",
            metavar="RUN",
            help="MLflow run, of a pipeline or of a stage, whose stages are used for those before STAGE",
        )
    else:
        parser.set_defaults(from_run=None)
    parser.add_argument(
        "--force", nargs="+", default=(), metavar="STAGE", help="stages to repeat although they are stored"
    )
    add_settings(parser, words)


def _add_groups(commands: argparse._SubParsersAction[Parser], words: Sequence[str]) -> None:
    """Adds the commands that run several pipelines."""
    usage = "softgrpo multi-recaller DATASET STAGE SIZE [--pools A,B A,C ...] [--flag value ...]"
    several = commands.add_parser(
        "multi-recaller", prog="softgrpo multi-recaller", description=MULTI_RECALLER, usage=usage
    )
    several.add_argument(
        "--pools", nargs="+", metavar="A,B", help="the pools; the first is what the others are compared with"
    )
    usage = "softgrpo tune DATASET STAGE SIZE [--trials N] [--flag value ...]"
    tune = commands.add_parser("tune", prog="softgrpo tune", description=TUNE, usage=usage)
    tune.add_argument(
        "--trials", type=int, default=20, metavar="N", help="trials in total, earlier ones included (default 20)"
    )
    tune.add_argument("--no-final", "--no_final", action="store_true", help="end with the search")
    for parser in (several, tune):
        for name in ("DATASET", "STAGE", "SIZE"):
            parser.add_argument(name, help=argparse.SUPPRESS)
        _add_where(parser)
        add_settings(parser, words)


def build_parser(words: Sequence[str]) -> Parser:
    """Returns the parser of the whole command line."""
    parser = Parser(prog="softgrpo", description=DESCRIPTION, usage="softgrpo COMMAND ...")
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
    add_settings(config, words)

    compare = commands.add_parser(
        "compare", prog="softgrpo compare", description=COMPARE, usage="softgrpo compare RUN RUN ... [--json]"
    )
    compare.add_argument("RUN", nargs="+", help=argparse.SUPPRESS)
    compare.add_argument("--json", action="store_true", help="print JSON")
    _add_where(compare)

    _add_groups(commands, words)
    doctor = commands.add_parser("doctor", prog="softgrpo doctor", description="Says what is installed and found.")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("--data-path", "--data_path", type=Path, metavar="FOLDER", help="where to look for datasets")
    _add_where(doctor)
    return parser
