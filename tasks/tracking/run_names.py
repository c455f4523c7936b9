"""Names of a pipeline's run in MLflow and in Prefect, and its tags: all that may distinguish it from other runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from softgrpo.config import ExperimentConfig, FusionChoice
from softgrpo.presets import preset_config, settings
from softgrpo.presets.changes import Changes, find_changes

MOST_CHANGES = 3
"""Changed settings that a name shows; the tag `changed settings` has all of them."""
MOST_CHARACTERS = 40
"""Of one changed setting in a name."""
NONE = "none"
RECALLER_SETTINGS = "recall.settings."
PREFECT_LINK, PREFECT_TAG = "The run in Prefect", "prefect page"
"""Label of a link, and the tag with the same address."""


@dataclass(frozen=True)
class About:
    """What is known about a pipeline's run before it begins.

    Attributes:
        name: Its name on pages.
        tags: Pages sort and filter runs by them.
        links: Where to look further, label -> address.
    """

    name: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: ExperimentConfig, until: str, member: str | None, page: str | None) -> About:
        """Returns name, tags and links of the run of a configuration.

        Args:
            config: The resolved configuration.
            until: Last stage of the plan.
            member: Name of the run in a group of runs, None for a run by itself.
            page: Address of the run on Prefect's page, None where no server keeps it.
        """
        changes = find_changes(config)
        links = {} if page is None else {PREFECT_LINK: page}
        return cls(run_name(config, changes, until, member), run_tags(config, changes), links)


def run_name(config: ExperimentConfig, changes: Changes, until: str, member: str | None = None) -> str:
    """Returns the name of a pipeline's run in MLflow, what differs first: a table there cuts names off after about 25 characters.

    Args:
        config: The resolved configuration.
        changes: From `softgrpo.presets.changes.find_changes`.
        until: Last stage of the plan.
        member: Its name in a group of runs, such as `trial 3`.

    Returns:
        For example `seed 42, debug, top_p=1.0, BPR+Pop, ml-100k tiny`.
    """
    name = ", ".join([*differences(config, changes, until), experiment_name(config)])
    return name if member is None else f"{member}: {name}"


def flow_run_name(config: ExperimentConfig, changes: Changes, until: str = "test") -> str:
    """Returns the name of a pipeline's run in Prefect, which lists the runs of all datasets together: the dataset comes first."""
    return ", ".join([experiment_name(config), *differences(config, changes, until)])


def experiment_name(config: ExperimentConfig) -> str:
    """Returns dataset and size, such as `ml-100k tiny`."""
    return f"{config.data.dataset} {config.policy.size}"


def differences(config: ExperimentConfig, changes: Changes, until: str) -> list[str]:
    """Returns in what a run may differ from others of its dataset and size, short and the shortest first.

    Args:
        config: The resolved configuration.
        changes: From `softgrpo.presets.changes.find_changes`.
        until: Last stage of the plan.

    Returns:
        The seed; then, where it is not the usual: debug, the last stage, changed settings, the pool.
    """
    parts = [f"seed {config.seed}"]
    if changes.debug:
        parts.append("debug")
    if until != "test":
        parts.append(f"until {until}")
    texts = [_short(f"{short_path(path)}={value}") for path, value in changes.settings.items()]
    parts += texts[:MOST_CHANGES]
    if len(texts) > MOST_CHANGES:
        left = len(texts) - MOST_CHANGES
        parts.append(f"{left} more change{'s' if left > 1 else ''}")
    pool = config.recall.recallers
    if pool != preset_config(config.data.dataset, config.policy.size).recall.recallers:
        parts.append("+".join(pool))
    return parts


def short_path(path: str) -> str:
    """Returns the path of a setting without its section, if no other section has a setting of that name.

    Args:
        path: Such as `grpo.top_p`, which becomes `top_p`, `sft.learning_rate`, which stays, or `recall.settings.BPR.epochs`, which
            becomes `BPR.epochs`.
    """
    if path.startswith(RECALLER_SETTINGS):
        return path.removeprefix(RECALLER_SETTINGS)
    last = path.rpartition(".")[2]
    return last if sum(known.rpartition(".")[2] == last for known in settings()) == 1 else path


def run_tags(config: ExperimentConfig, changes: Changes) -> dict[str, str]:
    """Returns the tags of a pipeline's run that runs are sorted and filtered by."""
    return {
        "dataset": config.data.dataset,
        "size": config.policy.size,
        "pool": ", ".join(config.recall.recallers),
        "merge": merge_text(config.fusion),
        "seed": str(config.seed),
        "debug": str(changes.debug).lower(),
        "changed settings": ", ".join(f"{path}={value}" for path, value in changes.settings.items()) or NONE,
    }


def merge_text(fusion: FusionChoice) -> str:
    """Returns the short name of a merge, such as `rrf`, `score zscore` or `auto`."""
    return f"score {fusion.normalisation}" if fusion.reads_normalisation else fusion.method


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
