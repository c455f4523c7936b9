"""What a worker takes from the shell that starts it: where it finds datasets, and how its libraries are set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from softgrpo.common.paths import ROOT
from softgrpo.config import DataConfig
from softgrpo.data.locate import DATA_VARIABLE, data_paths, known_datasets
from softgrpo.errors import ConfigError
from softgrpo.flows.services.places import Services

PREFIXES = (DATA_VARIABLE, "MLFLOW_", "PREFECT_", "HF_", "CUDA_VISIBLE_DEVICES")
LEFT_OUT = ("MLFLOW_TRACKING_URI", "MLFLOW_PORT", "PREFECT_API_URL", "PREFECT_PORT", "PREFECT_HOME")
"""The worker gets its own addresses, the ports are compared by themselves, and a shell's own commands may have another home."""


def worker_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns those variables that decide what a worker finds and does: name -> digest of the value, which may be a secret.

    Args:
        environment: That of a shell.
    """
    return {
        name: hashlib.sha256((_folder(value) if name == DATA_VARIABLE else value).encode()).hexdigest()
        for name, value in sorted(environment.items())
        if name.startswith(PREFIXES) and name not in LEFT_OUT and value
    }


def _folder(path: str) -> str:
    return str(Path(path).absolute())


def named_data_path(environment: Mapping[str, str]) -> str | None:
    """Returns the data path that an environment names, as an absolute path."""
    return _folder(environment[DATA_VARIABLE]) if environment.get(DATA_VARIABLE) else None


def worker_data_paths(named: str | None) -> list[Path]:
    """Returns the folders in which runs of a worker look for datasets, in that order.

    Args:
        named: What SOFTGRPO_DATA was where the services were started.
    """
    usual = [path for path in data_paths(DataConfig()) if str(path) != os.environ.get(DATA_VARIABLE)]
    return ([Path(named)] if named else []) + [
        ROOT / path for path in usual
    ]  # a run works in the folder it was deployed from


def worker_datasets(named: str | None) -> list[str]:
    """Returns the datasets that runs of a worker find on this machine.

    Args:
        named: What SOFTGRPO_DATA was where the services were started.
    """
    return sorted({name for path in worker_data_paths(named) for name in known_datasets(DataConfig(data_path=path))})


def data_line(named: str | None) -> str:
    """Returns the line that says where a worker finds datasets."""
    folders = ", ".join(str(path) for path in worker_data_paths(named))
    origin = f"the first is {DATA_VARIABLE}" if named else f"{DATA_VARIABLE} was not set"
    return f"data     {', '.join(worker_datasets(named)) or 'none'} in {folders} ({origin})"


def check_same_environment(services: Services, started: Mapping[str, str], named: str | None) -> None:
    """Checks that this shell sets no variable that the running worker lacks or has with another value.

    Args:
        services: The running services.
        started: Its variables, see `worker_variables`.
        named: Its data path.

    Raises:
        ConfigError: A variable has another value here. One that is not set here does not matter.
    """
    here = worker_variables(os.environ)
    other = [name for name in here if here[name] != started.get(name)]
    if not other:
        return
    shown = [f"{name}={os.environ[name]}" if name == DATA_VARIABLE else name for name in other]
    theirs = [
        f"{name}={named}" if name == DATA_VARIABLE and named else f"another {name}" if name in started else f"no {name}"
        for name in other
    ]
    raise ConfigError(
        f"{', '.join(shown)} of this shell",
        f"The worker of '{services.output}' is running already, with {', '.join(theirs)}, and keeps that",
        f"Start the services again ({services.make('stop')}, then {services.make('services')}), or unset {' and '.join(other)}",
        code="CONFIG-040",
    )
