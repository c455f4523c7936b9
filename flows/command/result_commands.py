"""What `compare`, `report`, `recommend` and `windows` do: found and computed first, then told and written."""

from __future__ import annotations

import argparse
import codecs
import json
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.command.destination import check_destination, check_overwrite
from flows.runtime.environment import check_takes_files, prepare_to_read
from softgrpo.common.text import visible, visible_json
from softgrpo.errors import ConfigError

if TYPE_CHECKING:
    from flows.command.recommend import Recommendation
    from flows.results.comparison import ComparedRuns
    from softgrpo.config import ExperimentConfig

Job = Callable[[], int]
"""What a sub-command does once its arguments are found to be right; returns the exit code."""


COMPARISON_FILES = ("comparison.html", "comparison.parquet")


def print_json(value: Any) -> None:
    """Prints what a machine reads: JSON, in the order in which it was made.

    What a reader cannot see is escaped, and all but ASCII where the output is not in UTF-8.
    """
    print(visible_json(json.dumps(value, indent=2, ensure_ascii=codecs.lookup(sys.stdout.encoding).name != "utf-8")))


def counted(number: int, noun: str) -> str:
    """Returns a number with what it counts, in the plural unless it is one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def compare_job(arguments: argparse.Namespace) -> Job:
    """Returns the comparison of stored runs.

    Raises:
        SoftGRPOError: They cannot be compared; nothing was written.
    """
    from flows.command.report import check_copy
    from flows.results.comparison import average_stored_seeds, compare_stored_runs

    check_overwrite(arguments.to, overwrite=arguments.overwrite)
    if arguments.to is not None:
        check_copy(arguments.to, COMPARISON_FILES, "comparison", overwrite=arguments.overwrite)
    read = average_stored_seeds if arguments.seeds else compare_stored_runs
    compared = read(arguments.RUN, arguments.output)

    def job() -> int:
        page = None if arguments.to is None else _write_comparison(compared, arguments.to, seeds=arguments.seeds)
        if arguments.json:
            print_json(replace(compared, page=page).as_record())
            return 0
        from flows.command.output import print_comparison, print_sentences
        from tasks.servers.addresses import make_line

        print(*(f"{run['label']}  {visible(run['name'])}" for run in compared.runs), sep="\n")
        print_sentences(compared.changes)
        reference = compared.references[compared.tested]
        print_comparison(compared.table, compared.k, reference, "--json", compared.tested)
        if page is not None:
            print(f"page  {page}")
        print(compared.link or f"{make_line('services', arguments.output)} shows the runs side by side")
        print_sentences(compared.verdicts)
        return 0

    return job


def _write_comparison(compared: ComparedRuns, folder: Path, *, seeds: bool) -> Path:
    """Writes the page and the table of a comparison into a folder that passed `check_copy`, and returns the page's path."""
    names = {run["label"]: f"{run['name']} ({run['run_id']})" for run in compared.runs}
    note = (
        "Seeds are averaged for each user; ± seeds is the standard deviation between seeds."
        if seeds
        else "Only SofT-GRPO of each run gets a p-value here, Holm-corrected; the others are tested in the report of their own run."
    )
    title = f"{len(names)} seeds, averaged" if seeds else f"{len(names)} runs compared"
    folder.mkdir(parents=True, exist_ok=True)
    page, table = (folder / name for name in COMPARISON_FILES)
    page.write_text(compared.html(title, names, note), encoding="utf-8")
    compared.table.to_parquet(table, index=False)
    return page


def report_job(arguments: argparse.Namespace) -> Job:
    """Returns the report of a stored run, shown, copied or opened.

    Raises:
        SoftGRPOError: There is none; nothing was written.
    """
    from flows.command.report import (
        TABLE,
        as_record,
        check_copy,
        check_files,
        copy_report,
        facts_of,
        open_report,
    )
    from flows.results.report_page import FOLDER, PAGE, TEXT, write_page

    check_overwrite(arguments.to, overwrite=arguments.overwrite)
    if arguments.to is not None:
        check_copy(arguments.to, overwrite=arguments.overwrite)
    else:
        check_takes_files("--output", arguments.output / FOLDER)
    run = open_report(arguments.RUN, arguments.output)
    if arguments.to is not None:
        check_files(run, arguments.to, overwrite=arguments.overwrite)

    def job() -> int:
        stored = run.folders["test"]
        if arguments.to is None:
            page, text = write_page(stored, arguments.output, facts_of(run)), stored / TEXT
        else:
            folder = copy_report(run, arguments.to)
            page, text = folder / PAGE, folder / TEXT
        record = as_record(run, page, text)
        if arguments.open:
            webbrowser.open(page.resolve().as_uri())
        if arguments.json:
            print_json(record)
            return 0
        import pandas as pd

        from flows.command.output import print_comparison, print_sentences
        from softgrpo.evaluation.summary import read_summary

        print_comparison(pd.read_parquet(stored / TABLE), run.config.fusion.k)
        summary = read_summary(stored)
        print(f"report      {record['html']}\nMarkdown    {record['markdown']}\nMLflow run  {run.link}")
        print_sentences(summary.sentences if summary else ())
        return 0

    return job


def recommend_job(arguments: argparse.Namespace) -> Job:
    """Returns the recommendations of a stored run, printed or written.

    Raises:
        SoftGRPOError: The run cannot give them; nothing was written.
    """
    _check_recommend(arguments)
    from flows.command.recommend import check_shown, read_users, recommend_from_run

    users = read_users(arguments.users, arguments.users_from)
    to: Path | None = arguments.to
    default = arguments.output / "recommendations" if to is None and users is None and not arguments.json else None
    if default is not None:
        check_takes_files("--output", default)
    elif to is None and not arguments.json:
        check_shown(users)
    made = recommend_from_run(arguments.RUN, arguments.output, users, arguments.k)
    if default is not None:
        to = default / f"{made.run.run_id}.parquet"

    def job() -> int:
        from softgrpo.serving.recommended import as_records, write_recommended

        if to is not None:
            write_recommended(to, made.recommended)
        if arguments.json:
            print_json(list(as_records(made.recommended)))
        else:
            _tell_recommendation(made, to, chosen=users is not None)
        for note in _notes(made):
            print(f"note: {visible(note)}", file=sys.stderr)
        return 0

    return job


def _check_recommend(arguments: argparse.Namespace) -> None:
    """Checks what can be seen before torch is imported, which takes seconds."""
    if arguments.k is not None and arguments.k < 1:
        raise ConfigError(f"--k {arguments.k}", "A list has at least one item", "Give a larger number")
    check_overwrite(arguments.to, overwrite=arguments.overwrite)
    if arguments.to is not None:
        from softgrpo.serving.recommended import check_format

        check_format(arguments.to)
        if arguments.to.is_dir():
            raise ConfigError(f"--to {arguments.to}", "It is a folder, and must be a file", "Name a file in it")
        check_takes_files("--to", arguments.to.parent)
        check_destination([arguments.to], overwrite=arguments.overwrite)
    prepare_to_read(arguments.output)


def _notes(made: Recommendation) -> list[str]:
    from flows.command.recommend import notes

    return notes(made.recommended)


def _tell_recommendation(made: Recommendation, to: Path | None, *, chosen: bool) -> None:
    from flows.command.recommend import MOST_USERS_SHOWN

    count = len(made.recommended.users)
    if chosen and count <= MOST_USERS_SHOWN:
        _show_lists(made, "--json" if to is None else str(to))
    rate = (
        "" if chosen else f", {count / made.seconds:,.0f} users/s"
    )  # for a few users it would tell how long the files take
    print(f"{counted(count, 'user')}, {counted(len(made.recommended.items), 'item')}{rate}")
    if to is not None:
        print(f"{to}")


def _show_lists(made: Recommendation, everything: str) -> None:
    from rich.table import Column, Table

    from flows.command.output import foreign, print_table

    parts = [f"from {name}" for name in made.recommended.recallers]
    numbers = [Column(foreign(name), justify="right", no_wrap=True) for name in ("score", *parts)]
    table = Table("user", Column("rank", justify="right", no_wrap=True), "item", "title", *numbers)
    for user, rank, item, title, *values in made.recommended.items.itertuples(index=False):
        texts = (foreign(str(text)) for text in (user, rank, item, title))
        table.add_row(*texts, *(f"{value:.4f}" for value in values))
    print_table(table, parts[::-1], everything)


def windows_job(arguments: argparse.Namespace, config: ExperimentConfig) -> Job:
    """Returns the export of the windows that a recaller from elsewhere has to score.

    Raises:
        SoftGRPOError: The folder takes no files, or has such files already, or the data cannot be read or cut; nothing was written.
    """
    from softgrpo.data.export import HISTORY, ITEMS, WINDOWS, export_windows

    check_takes_files("--to", arguments.to)
    check_destination([arguments.to / name for name in (WINDOWS, HISTORY, ITEMS)], overwrite=arguments.overwrite)
    from softgrpo.data.corpus import read_corpus
    from softgrpo.data.windows import check_no_leak, make_windows

    corpus = read_corpus(config.data, config.seed)
    windows = make_windows(corpus, config.split)
    check_no_leak(corpus, windows)

    def job() -> int:
        rows = export_windows(arguments.to, corpus, windows)
        written = {str(arguments.to / name): number for name, number in rows.items()}
        if arguments.json:
            print_json(written)
        else:
            print(*(f"{path}  {number:,} rows" for path, number in written.items()), sep="\n")
        return 0

    return job
