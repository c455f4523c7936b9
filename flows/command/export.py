"""`softgrpo export RUN --to FOLDER`: the policy of a run as a folder to hand on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flows.command.common import Job, print_json, print_notes
from flows.command.destination import check_copy
from flows.command.parser import Commands, Parser, add_json, add_output, add_overwrite, add_words
from flows.runtime.environment import prepare_to_read
from flows.runtime.failures import OK

DESCRIPTION = """\
Writes the SofT-GRPO policy of a run into a folder that the Hugging Face hub takes: the model, a model card with its result, data
digest, seed and limits, and with --onnx an ONNX file. A policy that reads a prompt alone becomes a plain text classifier for
transformers; any other keeps its wrapper, and the card says why.

  RUN  id of the MLflow run of a whole pipeline, as `softgrpo run` prints it"""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo export RUN --to FOLDER [--overwrite] [--onnx] [--json]"
    parser = commands.add_parser("export", prog="softgrpo export", description=DESCRIPTION, usage=usage)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the export goes")
    parser.add_argument("--onnx", action="store_true", help="also write onnx/model.onnx (needs the extra onnx)")
    add_words(parser, "RUN")
    add_json(parser)
    add_output(parser)
    add_overwrite(parser)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line and returns what exports the policy.

    Raises:
        SoftGRPOError: The folder is taken, or the extra for ONNX is missing; nothing was written.
    """
    from softgrpo.serving.export import FILES  # imports torch, which takes seconds
    from softgrpo.serving.onnx_file import check_onnx_installed

    check_copy(arguments.to, FILES, "export", overwrite=arguments.overwrite)
    if arguments.onnx:
        check_onnx_installed()
    prepare_to_read(arguments.output)
    from flows.results.export import export_run

    def job() -> int:
        exported = export_run(arguments.RUN, arguments.output, arguments.to, onnx=arguments.onnx)
        if arguments.json:
            plain, files = not exported.why_not_plain, list(exported.files)
            print_json(
                {
                    "folder": str(exported.folder),
                    "plain": plain,
                    "why_not_plain": exported.why_not_plain,
                    "files": files,
                }
            )
        else:
            print(*(f"{exported.folder / name}" for name in exported.files), sep="\n")
        if exported.why_not_plain:
            print_notes([f"the policy keeps its wrapper, because {exported.why_not_plain}"])
        return OK

    return job
