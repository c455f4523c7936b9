"""`softgrpo pure`: the original command line; the preset small holds its defaults."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from softgrpo.errors import ConfigError
from softgrpo.flows.command import pipeline
from softgrpo.flows.command.common import Job
from softgrpo.flows.command.defaults import resolve_named
from softgrpo.flows.command.parser import Commands, Parser

STAGE_OF = {"gen_sft_data": "data", "do_sft": "sft", "do_grpo": "grpo", "do_test": "test"}
"""The original flags that ask for a stage, in the order of the stages."""

DESCRIPTION = """\
Takes the original flags. Each stage is run with what it needs before it; finished stages are reused.
The model is Qwen2.5-0.5B-Instruct unless --model-name or --size says otherwise."""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo pure STAGE-FLAG [--flag value ...]"
    parser = commands.add_parser("pure", prog="softgrpo pure", description=DESCRIPTION, usage=usage)
    for flag, stage in STAGE_OF.items():
        spellings = dict.fromkeys((f"--{flag}", f"--{flag.replace('_', '-')}"))
        parser.add_argument(*spellings, dest=flag, action="store_true", help=f"run up to the stage {stage}")
    pipeline.add_pipeline_flags(parser, words)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line and returns the run up to the last stage that it asks for.

    Raises:
        SoftGRPOError: It asks for no stage, or something would fail later; nothing was written.
    """
    stages = [stage for flag, stage in STAGE_OF.items() if vars(arguments)[flag]]
    if not stages:
        flags = ", ".join(f"--{flag}" for flag in STAGE_OF)
        raise ConfigError(
            "No stage",
            f"At least one of {flags} must be given",
            "Add one; --do_test runs everything",
            code="CONFIG-002",
        )
    config = resolve_named(arguments, "ml-100k", "full", "small")
    return pipeline.pipeline_job(arguments, config, stages[-1], standalone=False)
