"""The Prefect flow `multi-recaller`: the pipeline for several pools of recallers, and one comparison of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from flows.form import FrequentSettings, check_dataset, gather_overrides, tag_run
from flows.pipeline import Size
from flows.results.comparison import ComparedRuns
from flows.results.failed_runs import fails_readably
from flows.variants import run_variants
from softgrpo.presets.changes import find_changes
from softgrpo.presets.pools import resolve_pools
from tasks.tracking.run_names import flow_run_name

KIND = "multi-recaller"


@flow(name="multi-recaller", flow_run_name="{dataset} {size}")
@fails_readably
def multi_recaller_flow(
    dataset: str = "ml-100k",
    data_path: Path | None = None,
    size: Size = "tiny",
    debug: bool = False,
    pools: list[list[str]] | None = None,
    frequent: FrequentSettings | None = None,
    overrides: dict[str, Any] | None = None,
    config: Path | None = None,
    output: Path = Path("outputs"),
    check: bool = True,
    parallel: int | None = None,
    dask: str | None = None,
) -> ComparedRuns:
    """Runs the pipeline for each pool of recallers and compares them on the same test windows. Each recaller is trained once.

    Args:
        dataset: Name of the dataset.
        data_path: Folder that holds a folder for each dataset, on the machine that runs the flow. Empty: SOFTGRPO_DATA of the
            worker, then the folder data.
        size: Size of the language model.
        debug: A small subset of the data.
        pools: Lists of RecBole models by name; the first is what the others are compared with. Nothing takes the preset's
            recallers all together and in pairs.
        frequent: The settings that are changed most often; a field that is left empty takes the preset's value.
        overrides: All other settings by dotted path, for all pools; those of a recaller count in the pools that have it.
        config: YAML file of settings as `softgrpo config` prints them, on the machine that runs the flow; fields and overrides
            come before it.
        output: Folder of all that is written, on the machine that runs the flow.
        check: Look for all that would fail later before anything is trained; the command has done so when it starts the flow.
        parallel: Recallers trained at once, each in a process with its share of the cores; nothing takes one for every two cores.
        dask: Address of the scheduler of a Dask cluster, such as tcp://127.0.0.1:8786, on which the stages of all pools are run.
    """
    tags = [dataset, size, *(["debug"] if debug else [])]
    tag_run(*tags)
    said = gather_overrides(dataset, size, overrides, frequent=frequent, config=config, data_path=data_path)
    whole, configs = resolve_pools(dataset, size, "debug" if debug else "full", pools, said)
    tag_run(*tags, name=flow_run_name(whole, find_changes(whole)))
    check_dataset(whole)
    settings = {"pools": list(configs)}
    return run_variants(KIND, settings, whole, configs, output, check=check, parallel=parallel, dask=dask)
