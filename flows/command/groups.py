"""What `softgrpo multi-recaller`, `ablate` and `tune` do: checked here before anything runs, then run, then told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flows.command.result_commands import print_json
from softgrpo.config import ExperimentConfig

if TYPE_CHECKING:
    from flows.pipeline import Size
    from flows.results.comparison import ComparedRuns
    from flows.tune import Tuned
    from flows.variants import Ablation


_noted: set[str] = set()


@dataclass(frozen=True)
class Wanted:
    """What both commands work on.

    Attributes:
        dataset: Name of the dataset.
        size: Size of the language model.
        stage: `full`, or `debug` for a small subset of the data.
        overrides: Settings by dotted path.
        output: Folder of all that is written.
        tracebacks: Show them.
        as_json: Tell the outcome as JSON.
        parallel: Recallers trained at once; None leaves it to the flow.
        dask: Address of a Dask cluster's scheduler.
    """

    dataset: str
    size: str
    stage: str
    overrides: dict[str, Any]
    output: Path
    tracebacks: bool
    as_json: bool
    parallel: int | None
    dask: str | None

    @property
    def common(self) -> dict[str, Any]:
        """What both flows are told besides."""
        return {"output": self.output, "check": False, "parallel": self.parallel, "dask": self.dask}


def multi_recaller_job(wanted: Wanted, pools: Sequence[str] | None) -> Callable[[], int]:
    """Returns the comparison of pools.

    Args:
        wanted: What to work on.
        pools: Recallers with commas between them, one text for each pool; None takes the preset's all together and in pairs.

    Raises:
        SoftGRPOError: Something would fail later; nothing was written.
    """
    from softgrpo.presets.pools import resolve_pools

    lists = None if pools is None else [pool.split(",") for pool in pools]
    whole, _ = resolve_pools(wanted.dataset, wanted.size, wanted.stage, lists, wanted.overrides)
    _preflight(whole)

    def job() -> int:
        from flows.runtime.session import begin_prefect, open_prefect

        begin_prefect(wanted.output)
        from flows.variants import multi_recaller_flow

        open_prefect(wanted.output, wanted.tracebacks)
        size, debug = cast("Size", wanted.size), wanted.stage == "debug"
        compared = multi_recaller_flow(
            wanted.dataset, size=size, pools=lists, overrides=wanted.overrides, debug=debug, **wanted.common
        )
        if wanted.as_json:
            print_json(compared.as_record())
        else:
            _tell_comparison(compared, wanted.output)
        return 0

    return job


def ablate_job(wanted: Wanted, name: str) -> Callable[[], int]:
    """Returns an ablation.

    Args:
        wanted: What to work on.
        name: What varies, see `softgrpo.presets.ablations`.

    Raises:
        SoftGRPOError: Something would fail later; nothing was written.
    """
    from softgrpo.presets.ablations import resolve_ablation

    for config in resolve_ablation(name, wanted.dataset, wanted.size, wanted.stage, wanted.overrides).values():
        _preflight(config)

    def job() -> int:
        from flows.runtime.session import begin_prefect, open_prefect

        begin_prefect(wanted.output)
        from flows.variants import ablate_flow

        open_prefect(wanted.output, wanted.tracebacks)
        size, debug = cast("Size", wanted.size), wanted.stage == "debug"
        compared = ablate_flow(
            cast("Ablation", name), wanted.dataset, size=size, overrides=wanted.overrides, debug=debug, **wanted.common
        )
        if wanted.as_json:
            print_json(compared.as_record())
        else:
            _tell_comparison(compared, wanted.output)
        return 0

    return job


def tune_job(wanted: Wanted, trials: int, *, final: bool) -> Callable[[], int]:
    """Returns the search for the best settings of SofT-GRPO.

    Args:
        wanted: What to work on.
        trials: Trials in total.
        final: Run the whole pipeline with what was found.

    Raises:
        SoftGRPOError: Something would fail later; nothing was written.
    """
    from softgrpo.pipeline.tuning import SearchSpace, plan_study

    _preflight(plan_study(wanted.dataset, wanted.size, wanted.stage, wanted.overrides, trials, SearchSpace()))

    def job() -> int:
        from flows.runtime.session import begin_prefect, open_prefect

        begin_prefect(wanted.output)
        from flows.tune import tune_flow

        open_prefect(wanted.output, wanted.tracebacks)
        size, debug = cast("Size", wanted.size), wanted.stage == "debug"
        tuned = tune_flow(
            wanted.dataset,
            size=size,
            trials=trials,
            overrides=wanted.overrides,
            final=final,
            debug=debug,
            **wanted.common,
        )
        if wanted.as_json:
            print_json(_study_record(tuned))
        else:
            _tell_study(tuned)
        return 0

    return job


def _preflight(config: ExperimentConfig) -> None:
    from softgrpo.pipeline.preflight import preflight

    for note in preflight(config):
        if note not in _noted:  # variants of one experiment have most notes in common
            _noted.add(note)
            print(f"note: {note}", file=sys.stderr)


def _tell_comparison(compared: ComparedRuns, output: Path) -> None:
    from flows.command.output import print_comparison, print_sentences
    from tasks.servers.addresses import make_line

    print_sentences(compared.changes)
    print_comparison(compared.table, compared.k, compared.references[compared.tested], "--json", compared.tested)
    print(f"page  {compared.page}")
    print(compared.link or f"{make_line('services', output)} shows the runs side by side")
    print_sentences(compared.verdicts)


def _study_record(tuned: Tuned) -> dict[str, Any]:
    table = tuned.final.table if tuned.final is not None else None
    return {
        "trials": json.loads(tuned.trials.to_json(orient="records")),
        "best": dict(tuned.best),
        "valid_ndcg": tuned.value,
        "rows": None if table is None else json.loads(table.to_json(orient="records")),
        "command": tuned.command,
        "link": tuned.link,
        "html": str(tuned.page),
    }


def _tell_study(tuned: Tuned) -> None:
    import yaml

    from flows.command.output import print_comparison, print_sentences
    from flows.results.summary import verdict_of

    columns = [name for name in tuned.trials.columns if name not in ("run", "retry_of")]
    print(tuned.trials[columns].to_string(index=False))
    print(f"\nBest on validation windows (NDCG {tuned.value:.4f}):\n{yaml.safe_dump(tuned.best, sort_keys=False)}")
    if tuned.final is not None and tuned.final.table is not None:
        print_comparison(tuned.final.table, tuned.k)
    print(f"{tuned.command}\npage        {tuned.page}\nMLflow run  {tuned.link}")
    print_sentences([*tuned.sentences, *(verdict_of(tuned.final) if tuned.final is not None else ())])
