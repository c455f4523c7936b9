"""`softgrpo export RUN --to FOLDER`: the policy of a run as a folder to hand on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from softgrpo.errors import ConfigError
from softgrpo.evaluation.chosen import BEST
from softgrpo.flows.command.common import Job, print_json, print_notes
from softgrpo.flows.command.destination import check_copy
from softgrpo.flows.command.parser import Commands, Parser, add_overwrite, add_run
from softgrpo.flows.runtime.environment import prepare_to_read
from softgrpo.flows.runtime.failures import OK

if TYPE_CHECKING:
    from softgrpo.flows.results.finished import FinishedRun
    from softgrpo.serving.export import Exported
    from softgrpo.serving.search_engines import Engine

DESCRIPTION = """\
Writes the SofT-GRPO policy of a run into a folder that the Hugging Face hub takes: the model, a model card with its result, data
digest, seed and limits, and with --onnx an ONNX file. A policy that reads a prompt alone becomes a plain text classifier for
transformers; any other keeps its wrapper, and the card says why. The folder `bundle` is a model of MLflow that answers tables of
candidates with the method of --method.

With --engines the weights of the run's users go there too, in `weights`: a Parquet table, and for each search engine a file of
JSON lines with a request body for each user. --queries names a JSON file with the query of each recaller.

  RUN  id of the MLflow run of a whole pipeline, as `softgrpo run` prints it"""
WEIGHTS = "weights"
"""Folder of the weights in an export."""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo export RUN --to FOLDER [--overwrite] [--method KEY] [--onnx] [--engines ENGINE ... [--queries FILE]] [--json]"
    parser = commands.add_parser("export", prog="softgrpo export", description=DESCRIPTION, usage=usage)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the export goes")
    parser.add_argument(
        "--method",
        default=BEST,
        metavar="KEY",
        help="what `bundle` answers with, a row of the table (default: best, the one that validation windows chose)",
    )
    parser.add_argument("--onnx", action="store_true", help="also write onnx/model.onnx (needs the extra onnx)")
    parser.add_argument(
        "--engines",
        nargs="+",
        default=(),
        metavar="ENGINE",
        help="also write request bodies with each user's weights: elasticsearch, opensearch, qdrant",
    )
    parser.add_argument("--queries", type=Path, metavar="FILE", help="JSON: engine -> recaller -> its query")
    add_run(parser)
    add_overwrite(parser)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line, finds the run and returns what exports its policy.

    Raises:
        SoftGRPOError: The folder is taken, the run is unknown, or an extra or a query is missing; nothing was written.
    """
    from softgrpo.serving.choice import method_key
    from softgrpo.serving.engine_files import check_engines, read_queries  # imports torch, which takes seconds
    from softgrpo.serving.export import FILES
    from softgrpo.serving.onnx_file import check_onnx_installed

    engines = check_engines(arguments.engines)
    if arguments.queries is not None and not engines:
        raise ConfigError(
            "--queries without --engines",
            "Queries go into the bodies for the engines that are named",
            "Add --engines, or leave --queries out",
            code="CONFIG-101",
        )
    check_copy(arguments.to, FILES, "export", overwrite=arguments.overwrite)
    if arguments.onnx:
        check_onnx_installed()
    prepare_to_read(arguments.output)
    from softgrpo.flows.results.export import export_run, export_weights, open_run

    run = open_run(arguments.RUN, arguments.output)
    method_key(run.folders, run.config.fusion.k, arguments.method)
    recallers = run.config.recall.recallers
    queries = {} if arguments.queries is None else read_queries(arguments.queries, engines, recallers)

    def job() -> int:
        exported = export_run(run, arguments.to, arguments.method, onnx=arguments.onnx)
        files = [exported.folder / name for name in exported.files]
        if engines:
            files += export_weights(run, exported.folder / WEIGHTS, engines, queries)
        if arguments.json:
            reason = exported.why_not_plain
            print_json({"files": list(map(str, files)), "plain": not reason, "why_not_plain": reason})
        else:
            print(
                *dict.fromkeys(exported.folder / path.relative_to(exported.folder).parts[0] for path in files), sep="\n"
            )
        print_notes(_notes(run, exported, engines))
        return OK

    return job


def _notes(run: FinishedRun, exported: Exported, engines: Sequence[Engine]) -> Iterator[str]:
    """Gives what somebody who uses the export should know."""
    from softgrpo.serving.search_engines import difference
    from softgrpo.stages.inputs import Prepared

    if exported.why_not_plain:
        yield f"the policy keeps its wrapper, because {exported.why_not_plain}"
    for engine in engines:
        if other := difference(engine, Prepared.of(run.config, run.folders).fusion):
            yield f"{other}: the lists are not those of the run"
