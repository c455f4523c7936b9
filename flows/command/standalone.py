"""`softgrpo standalone`: the main job in one process, without Prefect and MLflow."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from softgrpo.flows.command import pipeline
from softgrpo.flows.command.common import Job
from softgrpo.flows.command.defaults import resolve_named
from softgrpo.flows.command.parser import Commands, Parser

DESCRIPTION = "Runs the whole pipeline in this process, without Prefect and MLflow. Finished stages are reused."


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo standalone [--flag value ...]"
    parser = commands.add_parser("standalone", prog="softgrpo standalone", description=DESCRIPTION, usage=usage)
    pipeline.add_pipeline_flags(parser, words, with_mlflow=False)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line and returns the run.

    Raises:
        SoftGRPOError: Something would fail later; nothing was written.
    """
    config = resolve_named(arguments, "ml-100k", "standalone", "tiny")
    return pipeline.pipeline_job(arguments, config, "test", standalone=True)
