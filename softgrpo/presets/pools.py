"""Pools of recallers that are compared with each other, and the configuration of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, combinations
from typing import Any

from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError, SoftGRPOError
from softgrpo.presets import recall_files, resolve, validate
from softgrpo.recallers.registry import check_pool

RECALLERS = "recall.recallers"
Pool = tuple[str, ...]


def pool_name(pool: Pool) -> str:
    """Returns what people call a pool, e.g. `BPR-SASRec`."""
    return "-".join(pool)


def default_pools(recallers: Pool) -> tuple[Pool, ...]:
    """Returns the whole pool, which the others are compared with, and all its pairs."""
    return tuple(dict.fromkeys([recallers, *combinations(recallers, 2)]))


def check_pools(pools: Sequence[Sequence[str]], files: Collection[str] = ()) -> tuple[Pool, ...]:
    """Returns the pools with the recallers as RecBole spells them.

    Args:
        pools: Names of recallers; upper and lower case may be mixed.
        files: The names of the recallers that come from files.

    Raises:
        ConfigError: There are fewer than two pools; one has an unknown, an unusable or a repeated recaller or fewer than two; or
            two hold the same recallers. All problems are listed.
    """
    checked: list[Pool] = []
    problems: list[SoftGRPOError] = []
    for names in pools:
        try:
            checked.append(check_pool(names, files))
        except SoftGRPOError as error:
            problems.append(error)
        if len(names) < 2:
            received = f"Pool '{pool_name(tuple(names))}'"
            problems.append(
                ConfigError(
                    received,
                    "A pool needs at least two recallers to weigh",
                    "Add one, or drop the pool",
                    code="CONFIG-055",
                )
            )
    for pool, count in Counter(frozenset(pool) for pool in checked).items():
        if count > 1:
            received = f"Pool '{pool_name(tuple(sorted(pool)))}', {count} times"
            problems.append(
                ConfigError(
                    received, "Every pool is compared once, in whatever order", "Drop the repetition", code="CONFIG-056"
                )
            )
    if len(pools) < 2:
        received = f"{len(pools)} pool{'' if len(pools) == 1 else 's'}"
        problems.append(
            ConfigError(
                received, "A comparison takes at least two", "Name the pools, or recallers to pair", code="CONFIG-057"
            )
        )
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise ConfigError(
            "The pools", f"Each must be a choice of its own:{lines}", "\nNothing was run", code="CONFIG-058"
        )
    return tuple(checked)


def resolve_pools(
    dataset: str,
    size: str,
    stage: str = "full",
    pools: Sequence[Sequence[str]] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[ExperimentConfig, dict[str, ExperimentConfig]]:
    """Returns the configuration with all recallers of all pools, and that of each pool by its name.

    Args:
        dataset: Name of a dataset.
        size: Size of the language model.
        stage: `debug` adds the debug preset.
        pools: The pools; None takes the preset's recallers, all together and in pairs.
        overrides: Settings by dotted path, for all pools; those of recallers count in the pools that have them.

    Raises:
        ConfigError: A pool, the size or a setting is wrong.
        RecallerError: `overrides` names a recaller that is unknown, or named twice.
    """
    settings = dict(overrides or {})
    if pools is None:
        pools = default_pools(resolve(dataset, size, stage, settings).recall.recallers)
    elif RECALLERS in settings:
        raise ConfigError(
            f"Pools and {RECALLERS}",
            "The pools say which recallers there are",
            "Leave one of them out",
            code="CONFIG-059",
        )
    checked = check_pools(pools, recall_files(settings))
    whole = resolve(dataset, size, stage, settings | {RECALLERS: list(dict.fromkeys(chain.from_iterable(checked)))})
    return whole, {pool_name(pool): _with_pool(whole, pool) for pool in checked}


def _with_pool(whole: ExperimentConfig, pool: Pool) -> ExperimentConfig:
    kept = {name: values for name, values in whole.recall.settings.items() if name in {"all", *pool}}
    files = {name: path for name, path in whole.recall.files.items() if name in pool}
    values = whole.model_dump()
    for name in ("min_share", "max_share"):
        values["fusion"][name] = {key: value for key, value in values["fusion"][name].items() if key in pool}
    return validate(values | {"recall": values["recall"] | {"recallers": pool, "settings": kept, "files": files}})
