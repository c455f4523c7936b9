"""`softgrpo run DATASET STAGE SIZE`: the pipeline, or its first stages."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from softgrpo.flows.command import pipeline
from softgrpo.flows.command.common import Job
from softgrpo.flows.command.defaults import resolve_named
from softgrpo.flows.command.parser import Commands, Parser, add_words
from softgrpo.presets import DEBUG
from softgrpo.stages.contract import STAGES, check_stage

WHOLE = ("full", "standalone", DEBUG)
"""What STAGE may be besides the name of a stage: the whole pipeline, in three ways."""
KNOWN = (*STAGES, *WHOLE)

DESCRIPTION = """\
Runs the pipeline recall -> data -> check -> gates -> sft -> grpo -> test. Finished stages are reused.

  DATASET  a dataset with a preset, any other in the data path, or a file or folder: ratings.csv, data/ml-25m
           (`softgrpo check-data` shows what is understood of it)
  STAGE    the last stage wanted: recall, data, check (nothing leaks), gates (all that needs no language model), sft, grpo or test
           full         everything
           standalone   everything, without Prefect and MLflow
           debug        everything on a small subset
  SIZE     the language model: tiny, mini, small or large (`softgrpo doctor` says where they come from)"""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo run DATASET STAGE SIZE [--flag value ...]"
    parser = commands.add_parser("run", prog="softgrpo run", description=DESCRIPTION, usage=usage)
    add_words(parser, "DATASET", "STAGE", "SIZE")
    pipeline.add_pipeline_flags(parser, words)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line and returns the run.

    Raises:
        SoftGRPOError: Something would fail later; nothing was written.
    """
    stage = check_stage(arguments.STAGE, known=KNOWN)
    config = resolve_named(arguments, arguments.DATASET, stage, arguments.SIZE)
    until = STAGES[-1] if stage in WHOLE else stage
    return pipeline.pipeline_job(arguments, config, until, standalone=stage == "standalone")
