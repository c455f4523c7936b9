"""`softgrpo multi-recaller DATASET STAGE SIZE`: pools of recallers compared."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from softgrpo.flows.command.common import Job
from softgrpo.flows.command.groups import GroupOptions, add_group_flags, group_job
from softgrpo.flows.command.output import print_compared
from softgrpo.flows.command.parser import Commands, Parser

if TYPE_CHECKING:
    from softgrpo.flows.results.comparison import ComparedRuns

DESCRIPTION = """\
Runs the whole pipeline for several pools of recallers and puts all of them into one table, on the same test windows.
Each recaller is trained once.

  STAGE  full, or debug for a small subset of the data

Without --pools: the recallers of the preset (or --recbole_models) all together, and each pair of them."""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo multi-recaller DATASET STAGE SIZE [--pools A,B A,C ...] [--flag value ...]"
    parser = commands.add_parser("multi-recaller", prog="softgrpo multi-recaller", description=DESCRIPTION, usage=usage)
    parser.add_argument(
        "--pools", nargs="+", metavar="A,B", help="the pools; the first is what the others are compared with"
    )
    add_group_flags(parser, words)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line and returns the comparison of pools.

    Raises:
        SoftGRPOError: Something would fail later; nothing was written.
    """
    from softgrpo.presets.pools import resolve_pools

    options = GroupOptions.of(arguments)
    pools = None if arguments.pools is None else [pool.split(",") for pool in arguments.pools]
    whole, _ = resolve_pools(options.dataset, options.size, options.stage, pools, options.overrides)

    def import_flow() -> Callable[..., ComparedRuns]:
        from softgrpo.flows.variants import multi_recaller_flow

        return multi_recaller_flow

    return group_job(
        options, [whole], import_flow, {"pools": pools}, lambda compared: compared.as_record(), print_compared
    )
