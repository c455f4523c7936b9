"""What `compare`, `report`, `recommend` and `windows` do: found and computed first, then told and written."""

from __future__ import annotations

import argparse
import json
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.environment import check_writable

if TYPE_CHECKING:
    from flows.recommend import Recommendation
    from softgrpo.config import ExperimentConfig

Job = Callable[[], int]
"""What a sub-command does once its arguments are found to be right; returns the exit code."""
MOST_USERS_SHOWN = 10


def print_json(value: Any) -> None:
    """Prints what a machine reads: JSON, in the order in which it was made."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def compare_job(arguments: argparse.Namespace) -> Job:
    """Returns the comparison of stored runs.

    Raises:
        SoftGRPOError: They cannot be compared; nothing was written.
    """
    from flows.compare import average_stored_seeds, compare_stored_runs

    read = average_stored_seeds if arguments.seeds else compare_stored_runs
    compared = read(arguments.RUN, arguments.output)

    def job() -> int:
        if arguments.json:
            print_json(compared.as_record())
            return 0
        from flows.console import print_table
        from softgrpo.evaluation.words import render_terminal

        of = "each seed" if arguments.seeds else "the first run"
        print_table(render_terminal(compared.table, compared.k, f"the best single recaller of {of}"))
        print(*compared.verdicts, sep="\n")
        print(compared.link or "make services shows the runs side by side")
        return 0

    return job


def report_job(arguments: argparse.Namespace) -> Job:
    """Returns the report of a stored run, shown, copied or opened.

    Raises:
        SoftGRPOError: There is none; nothing was written.
    """
    from flows.report_command import PAGE, TABLE, as_record, copy_report, open_report

    run = open_report(arguments.RUN, arguments.output)

    def job() -> int:
        folder = run.folders["test"] if arguments.to is None else copy_report(run, arguments.to)
        record = as_record(run, folder)
        if arguments.open:
            webbrowser.open((folder / PAGE).resolve().as_uri())
        if arguments.json:
            print_json(record)
            return 0
        import pandas as pd

        from flows.console import print_table
        from softgrpo.evaluation.words import render_terminal

        print_table(render_terminal(pd.read_parquet(run.folders["test"] / TABLE), run.config.fusion.k))
        print(f"report      {record['html']}\nMarkdown    {record['markdown']}\nMLflow run  {run.link}")
        return 0

    return job


def recommend_job(arguments: argparse.Namespace) -> Job:
    """Returns the recommendations of a stored run, printed or written.

    Raises:
        SoftGRPOError: The run cannot give them; nothing was written.
    """
    from flows.recommend import read_users, recommend_from_run
    from softgrpo.recommend import check_format

    to: Path | None = None if arguments.to is None else check_format(arguments.to)
    if to is None and not arguments.json:
        to = arguments.output / "recommendations" / f"{arguments.RUN}.parquet"
    users = read_users(arguments.users, arguments.users_from)
    made = recommend_from_run(arguments.RUN, arguments.output, users, arguments.k)

    def job() -> int:
        from softgrpo.recommend import as_records, write_recommended

        if to is not None:
            check_writable(to.parent)
            write_recommended(to, made.recommended)
        if arguments.json:
            print_json(list(as_records(made.recommended)))
        else:
            _tell_recommendation(made, to, chosen=users is not None)
        for note in _notes(made):
            print(f"note: {note}", file=sys.stderr)
        return 0

    return job


def _notes(made: Recommendation) -> list[str]:
    from flows.recommend import notes

    return notes(made.recommended)


def _tell_recommendation(made: Recommendation, to: Path | None, *, chosen: bool) -> None:
    from rich.table import Table

    from flows.console import print_table

    count = len(made.recommended.users)
    if chosen and count <= MOST_USERS_SHOWN:
        table = Table(
            "user", "rank", "item", "title", "score", *(f"from {name}" for name in made.recommended.recallers)
        )
        for row in made.recommended.items.itertuples(index=False):
            user, rank, item, title, *numbers = row
            table.add_row(user, str(rank), item, title, *(f"{number:.4f}" for number in numbers))
        print_table(table)
    rate = (
        "" if chosen else f", {count / made.seconds:,.0f} users/s"
    )  # for a few users it would tell how long the files take
    print(f"{count:,} users, {len(made.recommended.items):,} items{rate}")
    print(f"{to}")


def windows_job(arguments: argparse.Namespace, config: ExperimentConfig) -> Job:
    """Returns the export of the windows that a recaller from elsewhere has to score.

    Raises:
        SoftGRPOError: The data cannot be read or cut; nothing was written.
    """
    from softgrpo.data.corpus import read_corpus
    from softgrpo.data.export import export_windows
    from softgrpo.data.windows import check_no_leak, make_windows

    corpus = read_corpus(config.data, config.seed)
    windows = make_windows(corpus, config.split)
    check_no_leak(corpus, windows)

    def job() -> int:
        check_writable(arguments.to)
        rows = export_windows(arguments.to, corpus, windows)
        written = {str(arguments.to / name): number for name, number in rows.items()}
        if arguments.json:
            print_json(written)
        else:
            print(*(f"{path}  {number:,} rows" for path, number in written.items()), sep="\n")
        return 0

    return job
