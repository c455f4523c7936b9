"""`softgrpo doctor`: what is installed, on which device, which data and packaged models are found, where results go."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softgrpo import __version__
from softgrpo.common.redaction import without_password
from softgrpo.config import DataConfig
from softgrpo.errors import PolicyError
from softgrpo.flows.command.common import Job, print_json
from softgrpo.flows.command.parser import Commands, Parser, add_json, add_output
from softgrpo.flows.runtime.environment import takes_files
from softgrpo.flows.runtime.failures import FAILED, OK
from softgrpo.flows.services.places import find_services
from softgrpo.flows.services.record import error_warnings
from softgrpo.presets import resolve, size_names
from softgrpo.tasks.servers.database import DATABASE

CORE = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "safetensors",
    "gguf",
)
EXTRAS = ("recbole", "prefect", "mlflow")


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    parser = commands.add_parser("doctor", prog="softgrpo doctor", description="Says what is installed and found.")
    add_json(parser)
    parser.add_argument("--data-path", "--data_path", type=Path, metavar="FOLDER", help="where to look for datasets")
    add_output(parser)


def prepare(arguments: argparse.Namespace) -> Job:
    """Returns the examination; it fails where something is missing that the main job needs."""

    def job() -> int:
        findings = examine(arguments.data_path, arguments.output)
        if arguments.json:
            print_json(findings)
        else:
            print(as_text(findings))
        return OK if is_healthy(findings) else FAILED

    return job


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> dict[str, Any]:
    if importlib.util.find_spec("torch") is None:
        return {"name": None, "cpu_threads": None, "gpus": []}
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"name": "cuda" if gpus else "cpu", "cpu_threads": torch.get_num_threads(), "gpus": gpus}


def _model(name: str, longest_prompt: int) -> str:
    """Returns where a size's language model comes from, and of one on the hub whether a run would get it."""
    if not name.startswith("package:"):
        from softgrpo.policy.model_files import check_reachable  # the hub's library takes a third of a second

        try:
            check_reachable(name, longest_prompt)
        except PolicyError as error:
            return f"hub: {name}, NOT AVAILABLE: {error.rule}"
        return f"hub: {name}"
    package, _, inside = name.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    place = next((path for path in (Path(folder) / inside for folder in folders) if path.exists()), None)
    return str(place) if place is not None else f"missing: pip package {package.replace('_', '-')}"


def examine(data_path: Path | None, output: Path) -> dict[str, Any]:
    """Returns what was found, JSON-able.

    Args:
        data_path: Where to look for datasets; None looks in the default places.
        output: Folder of results.
    """
    from softgrpo.data.locate import data_paths, known_datasets

    data = DataConfig(data_path=data_path)
    configs = {size: resolve(data.dataset, size) for size in size_names()}
    sizes = {size: _model(config.policy.model_name, config.prompt.max_length) for size, config in configs.items()}
    return {
        "softgrpo": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in (*CORE, *EXTRAS)},
        "device": _device(),
        "data_paths": [str(path) for path in data_paths(data)],
        "datasets": {name: str(folder) for name, folder in sorted(known_datasets(data).items())},
        "models": sizes,
        "mlflow": without_password(
            os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output.absolute() / DATABASE}"
        ),
        "prefect": without_password(os.environ.get("PREFECT_API_URL") or "in this process"),
        "output": {"folder": str(output.absolute()), "writable": takes_files(output)},
        "warnings": error_warnings(find_services(output)),
    }


def is_healthy(findings: dict[str, Any]) -> bool:
    """Returns whether everything that the main job needs is there."""
    return all(findings["versions"].values()) and bool(findings["datasets"]) and findings["output"]["writable"]


def as_text(findings: dict[str, Any]) -> str:
    """Returns the findings as lines for people."""
    versions = "  ".join(f"{name} {version or 'MISSING'}" for name, version in findings["versions"].items())
    device, output = findings["device"], findings["output"]
    gpus = ", ".join(device["gpus"]) or "no GPU"
    nothing = f"none; looked in {', '.join(findings['data_paths'])}"
    lines = [
        f"softgrpo   {findings['softgrpo']} on Python {findings['python']}, {findings['platform']}",
        f"installed  {versions}",
        f"device     {device['name'] or 'unknown: torch is missing'} ({device['cpu_threads']} CPU threads, {gpus})",
        *(f"dataset    {name}: {folder}" for name, folder in (findings["datasets"] or {"-": nothing}).items()),
        *(f"model      {size}: {where}" for size, where in findings["models"].items()),
        f"mlflow     {findings['mlflow']}",
        f"prefect    {findings['prefect']}",
        f"output     {output['folder']} ({'writable' if output['writable'] else 'NOT WRITABLE'})",
        *findings["warnings"],
    ]
    return "\n".join(lines)
