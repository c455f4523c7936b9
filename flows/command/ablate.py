"""`softgrpo ablate NAME DATASET STAGE SIZE`: the pipeline with one part changed at a time."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from softgrpo.flows.command.common import Job
from softgrpo.flows.command.groups import GroupOptions, add_group_flags, group_job
from softgrpo.flows.command.output import print_compared
from softgrpo.flows.command.parser import Commands, Parser, add_words
from softgrpo.presets.ablations import ABLATIONS, check_ablation

if TYPE_CHECKING:
    from softgrpo.flows.results.comparison import ComparedRuns

DESCRIPTION = f"""\
Runs the pipeline as it is and once for each variant of an ablation, and puts all of them into one table, on the same test
windows. Stages that a variant does not touch are made once.

{textwrap.fill(", ".join(ABLATIONS), 120, initial_indent="  NAME   ", subsequent_indent=9 * " ")}
  STAGE  full, or debug for a small subset of the data"""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo ablate NAME DATASET STAGE SIZE [--flag value ...]"
    parser = commands.add_parser("ablate", prog="softgrpo ablate", description=DESCRIPTION, usage=usage)
    add_words(parser, "NAME")
    add_group_flags(parser, words)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line and returns the ablation.

    Raises:
        SoftGRPOError: Something would fail later; nothing was written.
    """
    from softgrpo.presets.ablations import resolve_ablation

    options, name = GroupOptions.of(arguments), check_ablation(arguments.NAME)
    configs = resolve_ablation(name, options.dataset, options.size, options.stage, options.overrides)

    def import_flow() -> Callable[..., ComparedRuns]:
        from softgrpo.flows.variants import ablate_flow

        return ablate_flow

    return group_job(
        options, configs.values(), import_flow, {"name": name}, lambda compared: compared.as_record(), print_compared
    )
