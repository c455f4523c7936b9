"""The Prefect flow `ablate`: what one part of the method is worth, in one comparison of runs without it or with another."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefect import flow

from flows.form import FrequentSettings, check_dataset, gather_overrides, tag_run
from flows.pipeline import Size
from flows.results.comparison import ComparedRuns
from flows.results.failed_runs import fails_readably
from flows.variants import run_variants
from softgrpo.presets.ablations import REFERENCE, resolve_ablation
from softgrpo.presets.changes import find_changes
from tasks.tracking.run_names import flow_run_name

KIND = "ablate"
Ablation = Literal[
    "training",
    "prior",
    "merge",
    "normalisation",
    "ratio",
    "sampling",
    "tau",
    "top_p",
    "generations",
    "advantages",
    "windows",
    "prompt",
    "history",
]
"""The names in `softgrpo.presets.ablations`, which a form shows as a list to choose from."""


@flow(name="ablate", flow_run_name="{name}, {dataset} {size}")
@fails_readably
def ablate_flow(
    name: Ablation = "training",
    dataset: str = "ml-100k",
    data_path: Path | None = None,
    size: Size = "tiny",
    debug: bool = False,
    frequent: FrequentSettings | None = None,
    overrides: dict[str, Any] | None = None,
    config: Path | None = None,
    output: Path = Path("outputs"),
    check: bool = True,
    parallel: int | None = None,
    dask: str | None = None,
) -> ComparedRuns:
    """Runs the pipeline as it is and once for each variant of an ablation. Stages that a variant does not touch are made once.

    Args:
        name: What varies, see `softgrpo.presets.ablations`.
        dataset: Name of the dataset.
        data_path: Folder that holds a folder for each dataset, on the machine that runs the flow. Empty: SOFTGRPO_DATA of the
            worker, then the folder data.
        size: Size of the language model.
        debug: A small subset of the data.
        frequent: The settings that are changed most often; a field that is left empty takes the preset's value.
        overrides: All other settings by dotted path, for all variants.
        config: YAML file of settings as `softgrpo config` prints them, on the machine that runs the flow; fields and overrides
            come before it.
        output: Folder of all that is written, on the machine that runs the flow.
        check: Look for all that would fail later before anything is trained; the command has done so when it starts the flow.
        parallel: Recallers trained at once, each in a process with its share of the cores; nothing takes one for every two cores.
        dask: Address of the scheduler of a Dask cluster, such as tcp://127.0.0.1:8786, on which the stages are run.
    """
    tags = [dataset, size, name, *(["debug"] if debug else [])]
    tag_run(*tags)
    said = gather_overrides(dataset, size, overrides, frequent=frequent, config=config, data_path=data_path)
    configs = resolve_ablation(name, dataset, size, "debug" if debug else "full", said)
    settings = {"ablation": name, "variants": list(configs)}
    whole = configs[REFERENCE]
    tag_run(*tags, name=f"{name}, {flow_run_name(whole, find_changes(whole))}")
    check_dataset(whole)
    return run_variants(KIND, settings, whole, configs, output, check=check, parallel=parallel, dask=dask)
