"""The plan of stages: which nodes a run has, in which order, and what each needs.

    split -> recall-<recaller> (one per recaller) -> data -> check -> gates -> sft -> grpo -> test

`split` reads and cuts the data; where `Text` is in the pool, `embed` comes between it and `recall-Text`, and embeds item texts.
Users ask for both as part of `recall`. With `split.cross_fit`, each recaller has further nodes, `recall-<recaller>-fold<part>`,
which are fitted without the tails of one part of the users. `check` writes what it looked at and nothing that later stages read;
where something leaks it fails, and the run ends there. `gates` fits what needs no language model; `test` reads it and policies do
not, so a run that ends with a policy leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from softgrpo.common.names import TEXT, name_fold
from softgrpo.config import ExperimentConfig
from softgrpo.pipeline.keys import stage_key
from softgrpo.pipeline.store import LocalStore
from softgrpo.recallers.plugins import plugin_names
from softgrpo.stages.catalogue import (
    CHECK,
    DATA,
    EMBED,
    GATES,
    GRPO,
    RECALL,
    RECALL_FILE,
    RECALL_FOLD,
    RECALL_PLUGIN,
    RECALL_TEXT,
    RECALL_TEXT_FOLD,
    SFT,
    SPLIT,
    TEST,
)
from softgrpo.stages.contract import ALL_STAGES, POLICY_STAGES, Node, check_stage

WORKERS = 2  # threads that verify files ahead


def plan(config: ExperimentConfig, until: str = "test") -> tuple[Node, ...]:
    """Returns the nodes to run, in an order in which every node comes after its upstream nodes.

    Args:
        config: The resolved configuration.
        until: Last stage wanted, one of `STAGES`.

    Raises:
        ConfigError: There is no stage of that name.
    """
    check_stage(until)
    pool = config.recall.recallers
    recall = [_recall(name, config) for name in pool]
    recall += [_recall_fold(name, fold) for name in pool for fold in range(1, config.split.cross_fit + 1)]
    embed = [Node("embed", EMBED, "", ("split",))] if TEXT in pool else []
    given = ("split", *(node.name for node in embed))
    lists = tuple(node.name for node in recall)
    nodes = [
        Node("split", SPLIT, "", ()),
        *embed,
        *sorted(recall, key=lambda node: len(node.upstream)),  # those without `embed` can run beside it
        Node("data", DATA, "", (*given, *lists)),
        Node("check", CHECK, "", (*given, *lists, "data")),
        *([] if until in POLICY_STAGES else [Node("gates", GATES, "", (*given, "data"))]),
        Node("sft", SFT, "", ("split", "data")),
        Node("grpo", GRPO, "", ("split", "data", "sft")),
        Node("test", TEST, "", (*given, "data", "gates", "sft", "grpo")),
    ]
    last = max(index for index, node in enumerate(nodes) if node.stage.name == until)
    return tuple(nodes[: last + 1])


def _recall(name: str, config: ExperimentConfig) -> Node:
    """Returns the node of one recaller."""
    if name == TEXT:
        return Node(f"recall-{name}", RECALL_TEXT, name, ("split", "embed"))
    stage = RECALL_FILE if name in config.recall.files else RECALL_PLUGIN if name in plugin_names() else RECALL
    return Node(f"recall-{name}", stage, name, ("split",))


def _recall_fold(name: str, fold: int) -> Node:
    """Returns the node of one recaller for one part of `split.cross_fit`; what `Text` learns there follows from its own node."""
    variant = name_fold(name, fold)
    if name == TEXT:
        return Node(f"recall-{variant}", RECALL_TEXT_FOLD, variant, ("split", "embed", f"recall-{TEXT}"))
    return Node(f"recall-{variant}", RECALL_FOLD, variant, ("split",))


def check_force(force: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the stages to repeat.

    Raises:
        ConfigError: One of them is not a stage.
    """
    return tuple(check_stage(name, known=ALL_STAGES) for name in force)


def look_ahead(nodes: Sequence[Node], config: ExperimentConfig, force: tuple[str, ...], store: LocalStore) -> None:
    """Lets the files of stages that a plan will find on this machine be verified beside what this process does meanwhile.

    Nothing is decided here. Where a stage's files do not have the digest of its mark, or changed while they were read, they are
    read again where the plan comes to it. Damage that is done after that, within one start of a run, is found by the next run.

    Args:
        nodes: The plan.
        config: The resolved configuration.
        force: Stages that will be repeated; what comes behind one is not known before.
        store: Where finished stages are.
    """
    workers, digests = ThreadPoolExecutor(WORKERS, thread_name_prefix="ahead"), dict[str, str]()
    for node in nodes:
        key = stage_key(node, config, digests)
        if node.stage.name in force or (mark := store.marked(key)) is None:
            break
        store.look_ahead(key, workers)
        digests[node.name] = mark.digest
    workers.shutdown(wait=False)
