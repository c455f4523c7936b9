"""Finished policies under readable names: the names, the links, and the loading as the documents show it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from softgrpo.config import ExperimentConfig, PolicyConfig
from softgrpo.errors import StoreError
from softgrpo.pipeline.run import run_standalone
from softgrpo.policy.model import Policy, create_policy, store_policy
from softgrpo.presets import resolve
from softgrpo.serving.pure_models import load_model, model_path, show_model
from softgrpo.stages.contract import Node
from tests.support.fake_stages import FakeStages
from tests.support.toy_policy import save_base, toy_encoder, toy_tokenizer

ROOT = Path(__file__).parents[3]
PAGES = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/howto/trained-policy.md")]
RECALLERS = ("BPR", "SASRec", "ItemKNN")
NODES = {node.name: node for node in FakeStages().nodes()}
PROMPT = "red a b"


def made(output: Path, key: str) -> Path:
    """Returns a folder of the store that says which one it is."""
    folder = output / "stages" / key
    folder.mkdir(parents=True)
    (folder / "which").write_text(key)
    return folder


def test_names_are_those_of_the_original_description() -> None:
    config = resolve("ml-1m", "small", overrides={"recall.recallers": ["BPR", "SASRec"]})
    assert model_path(config, "sft") == Path("ml-1m/Qwen_Qwen2.5-0.5B-Instruct_pure_sft_BPR_SASRec")
    assert model_path(config, "grpo") == Path("ml-1m/Qwen_Qwen2.5-0.5B-Instruct_pure_grpo_BPR_SASRec")


@pytest.mark.parametrize(
    ("model_name", "shown"),
    [
        ("/models/mine", "models_mine"),
        ("./mine", "mine"),
        ("./mine/", "mine"),
        ("../models/mine", "models_mine"),
        ("~/mine", "mine"),
        ("./models/.hidden", "models_.hidden"),
        (".hidden", "hidden"),
        ("models/../mine", "mine"),
        (".", "here"),
        ("..", "above"),
        ("mine.gguf", "mine.gguf"),
        ("package:a/b", "package:a_b"),
    ],
)
def test_a_local_folder_gets_a_name_that_is_seen(
    model_name: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "above/here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "above/here")
    config = resolve("ml-100k", "tiny", overrides={"policy.model_name": model_name})
    assert model_path(config, "sft") == Path(f"ml-100k/{shown}_pure_sft_SASRec_EASE_Text")
    show_model(tmp_path / "out", config, NODES["sft"], made(tmp_path / "out", "sft-1"))
    seen = [path.name for path in (tmp_path / "out/pure_models/ml-100k").glob("[!.]*")]
    assert seen == [f"{shown}_pure_sft_SASRec_EASE_Text"]


def test_a_policy_of_a_sample_of_users_takes_no_name_of_a_whole_run() -> None:
    debug = resolve("ml-100k", "tiny", "debug")
    assert model_path(debug, "sft").parent == Path("ml-100k_30_users")
    assert model_path(debug, "sft").name == model_path(resolve("ml-100k", "tiny"), "sft").name


def test_a_name_that_is_too_long_keeps_its_end(tmp_path: Path) -> None:
    config = resolve("ml-100k", "tiny", overrides={"policy.model_name": "/é" * 200 + "/mine"})
    name = model_path(config, "sft").name
    assert name.endswith("_mine_pure_sft_SASRec_EASE_Text") and 250 < len(name.encode()) <= 255
    (tmp_path / name).mkdir()


def test_a_name_leads_to_what_was_made_last_and_moves_with_its_folder(tmp_path: Path) -> None:
    output, config = tmp_path / "out", ExperimentConfig()
    link = output / "pure_models" / model_path(config, "sft")
    for key in ("sft-1", "sft-2"):
        show_model(output, config, NODES["sft"], made(output, key))
        assert (link / "which").read_text() == key
    assert os.readlink(link) == "../../stages/sft-2"
    assert [path.name for path in link.parent.iterdir()] == [link.name]  # nothing is left of the making
    (tmp_path / "elsewhere").symlink_to(output)  # an output folder that is itself a link
    show_model(tmp_path / "elsewhere", config, NODES["sft"], output / "stages/sft-1")
    shutil.move(output, tmp_path / "moved")
    assert (tmp_path / "moved" / link.relative_to(output) / "which").read_text() == "sft-1"


def test_stages_that_make_no_policy_show_none(tmp_path: Path) -> None:
    show_model(tmp_path, ExperimentConfig(), NODES["split"], made(tmp_path, "split-1"))
    assert not (tmp_path / "pure_models").exists()


def test_a_folder_of_somebody_elses_is_not_touched(tmp_path: Path) -> None:
    config = ExperimentConfig()
    taken = tmp_path / "pure_models" / model_path(config, "sft")
    taken.mkdir(parents=True)
    with pytest.raises(StoreError, match=r"\[STORE-024\]"):
        show_model(tmp_path, config, NODES["sft"], made(tmp_path, "sft-1"))
    assert list(taken.parent.iterdir()) == [taken] and not taken.is_symlink()


def test_the_run_without_servers_shows_its_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(config: ExperimentConfig, until: str) -> tuple[Node, ...]:
        return FakeStages().nodes()

    monkeypatch.setattr("softgrpo.pipeline.run.plan", plan)
    config = ExperimentConfig()
    result = run_standalone(config, output=tmp_path)
    link = tmp_path / "pure_models" / model_path(config, "sft")
    assert link.resolve() == result.folders["sft"].resolve()
    link.unlink()
    run_standalone(config, output=tmp_path)  # a stage that is reused is shown too
    assert link.is_dir()


# ---------------------------------------------------------------- loading


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A tiny BERT in a folder."""
    return save_base(tmp_path / "encoder", toy_encoder(), toy_tokenizer())


def finished(output: Path, base: str, **settings: Any) -> tuple[Path, Policy]:
    """Returns the readable folder of a policy that moved away from its start, and the policy."""
    config = resolve("ml-100k", "tiny", overrides={"policy.model_name": base})
    made_with = PolicyConfig(model_name=base, **settings)
    policy = create_policy(made_with, RECALLERS, 32, np.array([0.7, 0.2, 0.1]), seed=3)
    with torch.no_grad():
        for value in policy.model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(5)))
    folder = output / "stages" / "sft-1"
    store_policy(folder, policy, merge=False)
    show_model(output, config, NODES["sft"], folder)
    return output / "pure_models" / model_path(config, "sft"), policy


def logits_of(model: Any, tokenizer: Any) -> Tensor:
    """Returns the logits of a prompt, without dropout."""
    model.eval()
    with torch.no_grad():
        logits: Tensor = model(**tokenizer(PROMPT, return_tensors="pt")).logits
    return logits


@pytest.mark.parametrize("settings", [{}, {"adapter": "lora", "lora_r": 4, "lora_alpha": 6}, {"prior": "none"}])
def test_a_policy_is_loaded_without_knowing_its_settings(base: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    folder, policy = finished(tmp_path / "out", base, **settings)
    loaded = load_model(str(folder))
    assert not loaded.model.training  # dropout would blur what it says
    assert loaded.card == policy.card
    torch.testing.assert_close(
        logits_of(loaded.model, loaded.tokenizer), logits_of(policy.model, policy.tokenizer), rtol=0, atol=1e-6
    )


def shown_in_documents() -> list[str]:
    """Returns the Python blocks that load from `pure_models`: the README's, then those of the page on policies."""
    blocks = re.findall(r"^```python\n(.*?)^```", "".join(PAGES), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "outputs/pure_models/" in block]


@pytest.mark.parametrize(
    ("shown", "settings"),
    [(0, {}), (1, {"prior": "none"}), (2, {"static_prior": False, "adapter": "lora"})],
    ids=["the project's loader", "transformers", "peft"],
)
def test_the_documents_load_a_policy(shown: int, settings: dict[str, Any], base: str, tmp_path: Path) -> None:
    folder, policy = finished(tmp_path / "out", base, **settings)
    source, places = re.subn(r'"outputs/pure_models/[^"]+"', repr(str(folder)), shown_in_documents()[shown])
    assert places == 1
    assert len(source.splitlines()) <= 10
    names: dict[str, Any] = {}
    exec(compile(re.sub(r'"User: [^"]+"', repr(PROMPT), source), "document", "exec"), names)
    expected = logits_of(policy.model, policy.tokenizer).softmax(-1)
    torch.testing.assert_close(names["weights"].detach(), expected, rtol=0, atol=1e-6)


def test_the_name_in_the_readme_is_that_of_make_run() -> None:
    """The others are of policies without numbers, which the main job does not train: its name there would mislead."""
    readme, *others = (set(re.findall(r'outputs/pure_models/([^"]+)"', block)) for block in shown_in_documents())
    assert readme == {str(model_path(resolve("ml-100k", "tiny"), "grpo"))}
    assert not any(readme & names for names in others)
