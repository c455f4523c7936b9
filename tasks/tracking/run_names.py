"""What a pipeline's run is called in MLflow, and its tags: all in which it may differ from the run beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

from softgrpo.config import ExperimentConfig, FusionConfig
from softgrpo.presets.changes import Changes, find_changes

MOST_CHANGES = 3
"""Changed settings that a name shows; the tag `changed settings` has all of them."""
MOST_CHARACTERS = 40
"""Of one changed setting in a name."""
NONE = "none"


@dataclass(frozen=True)
class About:
    """What is known about a pipeline's run before it begins.

    Attributes:
        name: What people call it.
        tags: By which they sort and filter.
        links: Where to look further, label -> address.
    """

    name: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: ExperimentConfig, until: str, member: str | None, page: str | None) -> About:
        """Returns what a configuration says about its run.

        Args:
            config: The resolved configuration.
            until: Last stage of the plan.
            member: Name of the run in a group of runs, None for a run by itself.
            page: Address of the run on Prefect's page, None where no server keeps it.
        """
        changes = find_changes(config)
        links = {} if page is None else {"The run in Prefect": page}
        return cls(run_name(config, changes, until, member), run_tags(config, changes), links)


def run_name(config: ExperimentConfig, changes: Changes, until: str, member: str | None = None) -> str:
    """Returns the name of a pipeline's run, what is rarest first: a narrow column cuts off the end.

    Args:
        config: The resolved configuration.
        changes: From `softgrpo.presets.changes.find_changes`.
        until: Last stage of the plan.
        member: Its name in a group of runs, such as `trial 3`.

    Returns:
        For example `ml-100k tiny debug, grpo.top_p=1.0, BPR+SASRec, rrf, seed 42`.
    """
    begin = f"{config.data.dataset} {config.policy.size}{' debug' if changes.debug else ''}"
    parts = [begin if until == "test" else f"{begin} until {until}"]
    texts = [_short(f"{path}={value}") for path, value in changes.settings.items()]
    parts += texts[:MOST_CHANGES]
    if len(texts) > MOST_CHANGES:
        left = len(texts) - MOST_CHANGES
        parts.append(f"{left} more change{'s' if left > 1 else ''}")
    parts += ["+".join(config.recall.recallers), merge_text(config.fusion), f"seed {config.seed}"]
    name = ", ".join(parts)
    return name if member is None else f"{member}: {name}"


def run_tags(config: ExperimentConfig, changes: Changes) -> dict[str, str]:
    """Returns the tags of a pipeline's run that people sort and filter by."""
    return {
        "dataset": config.data.dataset,
        "size": config.policy.size,
        "pool": ", ".join(config.recall.recallers),
        "merge": merge_text(config.fusion),
        "seed": str(config.seed),
        "debug": str(changes.debug).lower(),
        "changed settings": ", ".join(f"{path}={value}" for path, value in changes.settings.items()) or NONE,
    }


def merge_text(fusion: FusionConfig) -> str:
    """Returns how people call a merge, such as `rrf` or `score z_score`."""
    return f"score {fusion.normalisation}" if fusion.method == "score" else fusion.method


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
