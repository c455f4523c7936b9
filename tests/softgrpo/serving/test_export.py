"""An exported policy: what the folder holds, that the code on its card runs, and that nothing else is touched."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from softgrpo.common.digests import digest_file
from softgrpo.config import PolicyConfig
from softgrpo.data.corpus import write_corpus
from softgrpo.errors import DataError
from softgrpo.evaluation.report_files import save_report
from softgrpo.policy.model import create_policy, store_policy
from softgrpo.policy.number_scale import NumberScale
from softgrpo.policy.prompts import PromptParts
from softgrpo.serving.export import export_policy
from softgrpo.serving.model_card import Origin
from tests.softgrpo.evaluation.setup_small import Small, small
from tests.softgrpo.evaluation.test_report import make_report
from tests.support.toy_policy import save_base, toy_encoder, toy_tokenizer
from tests.support.whole import save_prompts

SCALE = NumberScale(("x", "Left: y"), np.ones(2), np.ones(2))
STARTED = datetime(2026, 11, 28, 16, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def case() -> Small:
    return small()


@pytest.fixture
def stages(case: Small, tmp_path: Path) -> dict[str, Path]:
    """Folders of the stages, `grpo` still empty."""
    folders = {name: tmp_path / "stages" / name for name in ("split", "data", "grpo", "test")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    write_corpus(folders["split"], case.corpus)
    save_prompts(folders["data"] / "prompts.parquet", [PromptParts("User: secret.\n", ("own",), "red a")])
    save_report(make_report(case), folders["test"])
    return folders


@pytest.fixture
def origin(case: Small) -> Origin:
    return Origin("0123abcd", STARTED, "c0ffee", case.config, "da7a", "90c1")


def store(stages: dict[str, Path], tmp_path: Path, tau: float = 0.5, **settings: Any) -> Callable[[str], torch.Tensor]:
    """Stores a trained policy as the stage grpo; returns what gives its weights for a prompt."""
    base = save_base(tmp_path / "base", toy_encoder(classes=2), toy_tokenizer())
    scale = SCALE if settings.get("numbers", "none") != "none" else None
    policy = create_policy(
        PolicyConfig(model_name=base, **settings), ("Left", "Right"), 32, np.array([0.7, 0.3]), 3, scale
    )
    with torch.no_grad():
        for value in policy.model.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(5)))
    policy.model.eval()
    policy.card = replace(policy.card, reading_tau=tau)
    store_policy(stages["grpo"], policy, merge=False)
    (stages["grpo"] / "curves.json").write_text("{}")

    def weights(prompt: str) -> torch.Tensor:
        with torch.no_grad():
            inputs = policy.tokenizer(prompt, return_tensors="pt")
            logits: torch.Tensor = policy.model(**inputs, **policy.typical_numbers()).logits
        return (logits / tau).softmax(-1)

    return weights


def code_of(card: str, folder: Path) -> tuple[str, str]:
    """Returns the code on a card with the folder's name in it, and its prompt."""
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    (prompt,) = re.findall(r'"(?:History|red)(?:[^"\\]|\\.)*"', code)
    return code.replace("FOLDER", str(folder)), json.loads(prompt)


def test_a_policy_without_numbers_is_a_plain_classifier(
    stages: dict[str, Path], origin: Origin, case: Small, tmp_path: Path
) -> None:
    weights = store(stages, tmp_path)
    folder = tmp_path / "made" / "export"
    exported = export_policy(folder, stages, origin, onnx=False)
    assert exported.why_not_plain == "" and not (folder / "policy").exists()
    assert {"README.md", "config.json", "model.safetensors", "policy.json", "tokenizer.json"} <= set(exported.files)
    text = (folder / "README.md").read_text()
    code, prompt = code_of(text, folder)
    names: dict[str, Any] = {}
    exec(compile(code, "card", "exec"), names)
    given = {entry["label"]: entry["score"] for entry in names["weights"]}
    assert given == pytest.approx(dict(zip(("Left", "Right"), weights(prompt)[0].tolist(), strict=True)), abs=1e-6)
    assert prompt == "History, newest last: item 0; Film 1 <b>&|*; Film 2 <b>&|*.\nred a"  # nobody's profile or history
    matter = yaml.safe_load(text.split("---\n")[1])
    assert matter == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["softgrpo", "recommendation", "rank-fusion"],
    }


def test_the_card_has_the_row_the_digests_the_seed_and_the_limits(
    stages: dict[str, Path], origin: Origin, case: Small, tmp_path: Path
) -> None:
    store(stages, tmp_path)
    export_policy(tmp_path / "export", stages, origin, onnx=False)
    text = (tmp_path / "export/README.md").read_text()
    table = case.comparison.table.set_index("method")
    row = table.loc["grpo_multi"]
    (shown,) = [line for line in text.splitlines() if line.startswith(f"| {row['label']} |")]
    assert [cell.strip() for cell in shown.split("|")][2:5] == [
        f"{row[n]:.4f}" for n in ("ndcg@5", "recall@10", "recall@20")
    ]
    assert (
        sum(line.startswith("| ") for line in text.splitlines()) == 1 + 6
    )  # heading; best single and static, four policies
    for fact in (
        "`da7a`",
        "`90c1`",
        "seed: 42",
        "run: `0123abcd`, 2026-11-28, commit `c0ffee`",
        "30 test users",
        "One seed",
    ):
        assert fact in text, fact
    assert str(tmp_path) not in text + (tmp_path / "export/policy.json").read_text()  # no path of this machine
    record = json.loads((tmp_path / "export/export.json").read_text())
    assert (record["run_id"], record["data_digest"], record["seed"], record["plain"]) == ("0123abcd", "da7a", 42, True)
    for name, digest in record["files"].items():
        assert digest_file(tmp_path / "export" / name) == digest


def test_a_policy_that_reads_numbers_keeps_its_wrapper(stages: dict[str, Path], origin: Origin, tmp_path: Path) -> None:
    weights = store(stages, tmp_path, numbers="head")
    folder = tmp_path / "export"
    exported = export_policy(folder, stages, origin, onnx=False)
    assert "policy.numbers = head" in exported.why_not_plain
    assert not (folder / "config.json").exists() and not (folder / "policy/curves.json").exists()
    ours = tmp_path / "ours"  # has the rights that a new file gets
    ours.touch()
    assert (folder / "policy/model.safetensors").stat().st_mode == ours.stat().st_mode
    text = (folder / "README.md").read_text()
    assert "pipeline_tag" not in text and "`x`, `Left: y`" in text
    code, prompt = code_of(text, folder)
    names: dict[str, Any] = {}
    exec(compile(code, "card", "exec"), names)
    torch.testing.assert_close(names["weights"].detach(), weights(prompt), rtol=0, atol=1e-6)


def test_an_earlier_export_is_replaced_and_other_files_stay(
    stages: dict[str, Path], origin: Origin, tmp_path: Path
) -> None:
    store(stages, tmp_path, numbers="head")
    folder = tmp_path / "export"
    export_policy(folder, stages, origin, onnx=False)
    (folder / ".gitattributes").write_text("mine")
    (folder / ".gitattributes").chmod(0o600)
    shutil.rmtree(stages["grpo"])
    stages["grpo"].mkdir()
    store(stages, tmp_path)
    export_policy(folder, stages, origin, onnx=False)
    assert not (folder / "policy/model.safetensors").exists() and (folder / "model.safetensors").is_file()
    assert (folder / ".gitattributes").read_text() == "mine"
    assert (folder / ".gitattributes").stat().st_mode & 0o777 == 0o600  # its rights are its owner's business


def test_a_policy_that_cannot_be_loaded_leaves_nothing(stages: dict[str, Path], origin: Origin, tmp_path: Path) -> None:
    store(stages, tmp_path)
    (stages["test"] / "table.parquet").unlink()  # it is missed after the model was written
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"\[DATA-021\]"):
        export_policy(tmp_path / "export", stages, origin, onnx=False)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow  # torch's exporter takes half a minute
@pytest.mark.parametrize("settings", [{}, {"numbers": "head"}, {"prior": "gate", "numbers": "tokens"}])
def test_the_onnx_file_gives_the_weights(
    settings: dict[str, Any], stages: dict[str, Path], origin: Origin, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from softgrpo.serving.onnx_file import write_onnx
    from softgrpo.serving.pure_models import load_policy

    store(stages, tmp_path, **settings)
    policy = load_policy(stages["grpo"])
    written = write_onnx(tmp_path / "model.onnx", policy)
    assert written.difference <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert tuple(each.name for each in session.get_inputs()) == written.inputs
    prompts = ["red a b c d e f red", "blue", "a", "green b b"]  # other sizes than at the export
    inputs = dict(policy.tokenizer(prompts, return_tensors="pt", padding=True))
    generator = torch.Generator().manual_seed(1)
    if "numbers" in written.inputs:
        inputs["numbers"] = torch.randn(4, 2, generator=generator)
    if "log_prior" in written.inputs:
        inputs["log_prior"] = torch.rand(4, 2, generator=generator).log()
    with torch.no_grad():
        expected = (policy.model(**inputs).logits / 0.5).softmax(-1).numpy()
    (weights,) = session.run(["weights"], {name: value.numpy() for name, value in inputs.items()})
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_onnx_file_of_the_packaged_encoder(tmp_path: Path) -> None:
    """all-MiniLM with a head that reads numbers, as in the size `tiny`: one prompt and many, of 3 to 64 tokens."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from softgrpo.serving.onnx_file import write_onnx

    settings = PolicyConfig(numbers="head", frozen_layers=6)
    pool, scale = ("SASRec", "EASE", "Text"), NumberScale(("x", "SASRec: y", "EASE: y"), np.zeros(3), np.ones(3))
    policy = create_policy(settings, pool, 64, np.array([0.5, 0.3, 0.2]), 1, scale)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in policy.model.parameters():
            if value.requires_grad:  # a new head gives the prior, whatever the text
                value += 0.5 * torch.randn(value.shape, generator=generator)
    policy.card = replace(policy.card, reading_tau=0.5)
    written = write_onnx(tmp_path / "model.onnx", policy)
    assert written.difference <= 1e-4 and "numbers" in written.inputs
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    words = "History, newest last: Sleeper; Fargo; Mask, The; Heat; Braveheart. "
    for prompts in (["a"], [words, "User: 24, M, technician, 197 items.", words * 3, "b"]):
        encoded = policy.tokenizer(prompts, return_tensors="pt", padding=True, truncation=True, max_length=64)
        inputs = {name: encoded[name] for name in encoded}
        inputs["numbers"] = torch.randn(len(prompts), 3, generator=generator)
        with torch.no_grad():
            expected = (policy.model(**inputs).logits / 0.5).softmax(-1).numpy()
        (weights,) = session.run(["weights"], {name: inputs[name].numpy() for name in written.inputs})
        np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-4)
    assert expected.std(0).max() > 0.01
