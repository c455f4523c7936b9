"""The common part of all deployments' forms: frequent settings as fields, a file of settings, early tags and checks of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from prefect.client.orchestration import get_client
from prefect.runtime import deployment, flow_run
from pydantic import BaseModel, ConfigDict, Field

from softgrpo.config import DataConfig, ExperimentConfig
from softgrpo.config.fusion import FusionMethod
from softgrpo.config.section import Count, NonNegative, Positive
from softgrpo.data.locate import DATA_VARIABLE, data_paths, known_datasets, locate
from softgrpo.errors import ConfigError, DataError, nearest
from softgrpo.presets import settings
from softgrpo.presets.settings import shown
from softgrpo.presets.settings_file import read_settings

PATHS = {
    "k": "fusion.k",
    "merge_method": "fusion.method",
    "sft_epochs": "sft.num_train_epochs",
    "sft_learning_rate": "sft.learning_rate",
    "grpo_epochs": "grpo.num_train_epochs",
    "grpo_learning_rate": "grpo.learning_rate",
    "max_users": "data.max_users",
    "seed": "seed",
}
"""The fields of the frequent settings, and the settings they stand for."""


def _field(name: str) -> Any:
    path = PATHS[name]
    return Field(default=None, title=name, description=f"{path}. {settings()[path].description} Empty: the preset's.")


class FrequentSettings(BaseModel):
    """The settings that are changed most often; a field that is left empty changes nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: Count | None = _field("k")
    merge_method: FusionMethod | None = _field("merge_method")
    sft_epochs: NonNegative | None = _field("sft_epochs")
    sft_learning_rate: Positive | None = _field("sft_learning_rate")
    grpo_epochs: NonNegative | None = _field("grpo_epochs")
    grpo_learning_rate: Positive | None = _field("grpo_learning_rate")
    max_users: Count | None = _field("max_users")
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = _field("seed")

    def by_path(self) -> dict[str, Any]:
        """Returns the fields that are filled in, by the dotted path of their setting."""
        return {PATHS[name]: value for name, value in self if value is not None}


def gather_overrides(
    dataset: str,
    size: str,
    overrides: Mapping[str, Any] | None,
    *,
    frequent: FrequentSettings | None,
    config: Path | list[Path] | None,
    data_path: Path | None,
    recallers: list[str] | None = None,
) -> dict[str, Any]:
    """Returns all settings of a form as overrides by dotted path; fields and `overrides` take precedence over the file.

    Args:
        dataset: Name of the dataset.
        size: Size of the language model.
        overrides: Settings by dotted path.
        frequent: Settings that have a field.
        config: Files of settings; a later one wins.
        data_path: Folder of dataset folders.
        recallers: The pool.

    Raises:
        ConfigError: A field and `overrides` name the same setting, or see `read_settings`.
    """
    fields = {"data.data_path": data_path, "recall.recallers": recallers}
    fields = {path: value for path, value in fields.items() if value is not None}
    fields |= frequent.by_path() if frequent is not None else {}
    others = dict(overrides or {})
    names = {"data.data_path": "data_path", "recall.recallers": "recallers"} | {
        path: name for name, path in PATHS.items()
    }
    for path in others:
        if path in fields:
            raise ConfigError(
                f"{names[path]} = {shown(fields[path])}, and {path} = {shown(others[path])} in overrides",
                "A setting is given once",
                "Leave one of them out",
                code="CONFIG-025",
            )
    return {**(read_settings(config, dataset, size) if config else {}), **fields, **others}


def tag_run(*tags: str, name: str | None = None) -> None:
    """Adds tags to the flow run, by which Prefect's pages filter.

    Args:
        *tags: Added to those that it began with.
        name: The new name of the run on the pages; None keeps the old one.
    """
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=name, tags=sorted({*flow_run.tags, *tags}))


def check_dataset(config: ExperimentConfig) -> None:
    """Checks that the dataset of a deployment's run is there, before anything takes long.

    Raises:
        DataError: It is not, with what helps on a worker; the command has flags instead.
    """
    if deployment.id is None:
        return
    try:
        locate(config.data)
    except DataError as error:
        name, folder = config.data.dataset, config.data.data_path
        searched = " and ".join(str(path.resolve()) for path in data_paths(config.data))
        missing = f"dataset '{name}' has no {name}/{name}.inter in {searched}, where the worker looks"
        received = missing if folder is None or folder.is_dir() else f"data_path = {folder} is no folder on the worker"
        raise DataError(received, error.rule, _worker_remedy(config.data), code=error.code) from error


def _worker_remedy(data: DataConfig) -> str:
    """Returns the remedy for a dataset that a worker does not find."""
    return (
        "Put the dataset there, or give the run the parameter data_path, or start the worker anew with another folder "
        f"(softgrpo stop, then {DATA_VARIABLE}=FOLDER softgrpo services). {nearest(data.dataset, known_datasets(data))}"
    )
