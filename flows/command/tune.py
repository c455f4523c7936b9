"""`softgrpo tune DATASET STAGE SIZE`: the search for the best settings of SofT-GRPO."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softgrpo.flows.command.common import Job
from softgrpo.flows.command.groups import GroupOptions, add_group_flags, group_job
from softgrpo.flows.command.parser import Commands, Parser

if TYPE_CHECKING:
    from softgrpo.flows.tune import Tuned

DESCRIPTION = """\
Looks for the settings of SofT-GRPO (learning rates, tau_gumbel, noise_scale, reward_k, top_p, epsilon, beta) with the
best NDCG on validation windows, then runs the whole pipeline with them. The same command goes on where it was interrupted.

  STAGE  full, or debug for a small subset of the data"""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo tune DATASET STAGE SIZE [--trials N] [--flag value ...]"
    parser = commands.add_parser("tune", prog="softgrpo tune", description=DESCRIPTION, usage=usage)
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N", help="trials in total, earlier ones included (default 20)"
    )
    parser.add_argument("--no-final", "--no_final", action="store_true", help="end with the search")
    add_group_flags(parser, words)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line and returns the search.

    Raises:
        SoftGRPOError: Something would fail later; nothing was written.
    """
    from softgrpo.pipeline.tuning import SearchSpace, plan_study

    options, trials = GroupOptions.of(arguments), arguments.trials
    start = plan_study(options.dataset, options.size, options.stage, options.overrides, trials, SearchSpace())

    def import_flow() -> Callable[..., Tuned]:
        from softgrpo.flows.tune import tune_flow

        return tune_flow

    return group_job(
        options, [start], import_flow, {"trials": trials, "final": not arguments.no_final}, study_record, print_study
    )


def study_record(tuned: Tuned) -> dict[str, Any]:
    """Returns what a machine reads of a study; `rows` is null without a final run."""
    table = tuned.final.table if tuned.final is not None else None
    return {
        "trials": json.loads(tuned.trials.to_json(orient="records")),
        "best": dict(tuned.best),
        "valid_ndcg": tuned.value,
        "rows": None if table is None else json.loads(table.to_json(orient="records")),
        "command": tuned.command,
        "link": tuned.link,
        "html": str(tuned.page),
    }


def print_study(tuned: Tuned, output: Path) -> None:
    """Prints the trials, the best settings, the comparison of the final run, where all that is, and the verdicts."""
    import yaml

    from softgrpo.flows.command.output import print_comparison, print_sentences
    from softgrpo.flows.results.summary import verdict_of

    columns = [name for name in tuned.trials.columns if name not in ("run", "retry_of")]
    print(tuned.trials[columns].to_string(index=False))
    print(f"\nBest on validation windows (NDCG {tuned.value:.4f}):\n{yaml.safe_dump(tuned.best, sort_keys=False)}")
    if tuned.final is not None and tuned.final.table is not None:
        print_comparison(tuned.final.table, tuned.k)
    print(f"{tuned.command}\npage        {tuned.page}\nMLflow run  {tuned.link}")
    print_sentences([*tuned.sentences, *(verdict_of(tuned.final) if tuned.final is not None else ())])
