"""The Prefect flow `ablate`: what one part of the method is worth, in one comparison of runs without it or with another."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefect import flow

from flows.compare import ComparedRuns
from flows.failed_runs import fails_readably
from flows.recipe import Size
from flows.variants import run_variants
from softgrpo.ablations import REFERENCE, resolve_ablation

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
"""The names in `softgrpo.ablations`, which a form shows as a list to choose from."""


@flow(name="ablate", flow_run_name="{name}-{dataset}-{size}")
@fails_readably
def ablate_flow(
    name: Ablation = "training",
    dataset: str = "ml-100k",
    size: Size = "tiny",
    overrides: dict[str, Any] | None = None,
    debug: bool = False,
    output: Path = Path("outputs"),
    check: bool = True,
    parallel: int | None = None,
    dask: str | None = None,
) -> ComparedRuns:
    """Runs the pipeline as it is and once for each variant of an ablation. Stages that a variant does not touch are made once.

    Args:
        name: What varies, see `softgrpo.ablations`.
        dataset: Name of the dataset.
        size: Size of the language model.
        overrides: Settings by dotted path, for all variants.
        debug: A small subset of the data.
        output: Folder of all that is written, on the machine that runs the flow.
        check: Look for all that would fail later before anything is trained; the command has done so when it starts the flow.
        parallel: Recallers trained at once, each in a process with its share of the cores; nothing takes one for every two cores.
        dask: Address of the scheduler of a Dask cluster, such as tcp://127.0.0.1:8786, on which the stages are run.
    """
    configs = resolve_ablation(name, dataset, size, "debug" if debug else "full", overrides)
    settings = {"ablation": name, "variants": list(configs)}
    whole = configs[REFERENCE]
    return run_variants(KIND, settings, whole, configs, output, check=check, parallel=parallel, dask=dask)
