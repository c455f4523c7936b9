"""`--help` and `config` show what a dataset, stage and size really use, and refuse what nobody knows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import softgrpo.flows.cli as cli

HEADER = "user_id:token\titem_id:token\ttimestamp:float"


def help_of(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the help of a command line, its lines joined."""
    with pytest.raises(SystemExit):
        cli.main([*words.split(), "--help"])
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("run ml-1m full small", ("sft.num_train_epochs (default 3)", "recall.recallers (default BPR SASRec):")),
        ("run ml-1m full tiny", ("sft.num_train_epochs (default 1)", "grpo.num_generations (default 64)")),
        ("run ml-100k debug small", ("sft.num_train_epochs (default 1)", "size small, stage debug.")),
        ("run ml-100k full tiny --size small", ("grpo.num_generations (default 4)", "ml-100k with size small")),
        ("run ml-100k full tiny --dataset steam", ("(default BPR SASRec LightGCN)", "those of steam with size tiny")),
        ("run ml-100k full tiny --seed 7", ("seed (default 42)",)),
        ("standalone", ("grpo.learning_rate (default 1e-05)", "those of ml-100k with size tiny.")),
        ("pure", ("grpo.learning_rate (default 1e-06)", "those of ml-100k with size small.")),
        ("config steam small", ("grpo.num_generations (default 4)", "those of steam with size small.")),
        ("tune ml-1m full tiny", ("grpo.num_generations (default 64)", "those of ml-1m with size tiny, stage full.")),
    ],
)
def test_help_shows_what_dataset_and_size_use(
    words: str, shown: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = help_of(words, capsys)
    assert all(part in printed for part in shown)


@pytest.mark.parametrize("words", ["run", "run ml-100k", "run ml-100k full tinny", "run nowhere full tiny"])
def test_help_is_given_whatever_is_wrong(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = help_of(words, capsys)
    assert "sft.num_train_epochs (default 3)" in printed and " with size " not in printed


def test_commands_without_settings_keep_their_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "whose report" not in help_of("report RUN", capsys)
    assert help_of("doctor", capsys).startswith("usage: softgrpo doctor")


def test_config_of_an_unknown_dataset_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SOFTGRPO_DATA", raising=False)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/shop.inter").write_text(f"{HEADER}\n")
    assert cli.main(["config", "shopp", "--data-path", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert f"no shopp/shopp.inter in {tmp_path}" in told and "Did you mean 'shop'" in told
    assert "ml-1m" in told and "Traceback" not in told
    assert cli.main(["config", "ml-100k", "--dataset", "shopp"]) == 2
    assert "dataset 'shopp'" in capsys.readouterr().err
    assert cli.main(["config", "netflix", "--data-path", str(tmp_path)]) == 2
    assert "`softgrpo run` downloads it" in capsys.readouterr().err
    assert cli.main(["config", "shopp", "--settings"]) == 0  # of no dataset in particular


def test_config_shows_what_is_derived_from_own_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"u{user}\ti{(user * 7 + step * 3) % 80}\t{step}" for user in range(60) for step in range(20)]
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/shop.inter").write_text("\n".join([HEADER, *rows]) + "\n")
    assert cli.main(["config", "shop", "--data-path", str(tmp_path)]) == 0
    assert "BPR: {epochs: 100, stopping_step: 10, train_batch_size: 64}" in capsys.readouterr().out


def test_the_help_of_all_commands_takes_little_of_the_processor() -> None:
    """Under 0.3 s, beside the start of Python; measured in the process, so that a busy machine hardly matters."""
    code = (
        "import sys, time\n"
        "try:\n import softgrpo.flows.cli; flows.cli.main(['--help'])\n"
        "except SystemExit: print('seconds', time.process_time(), 'torch' in sys.modules, 'requests' in sys.modules)"
    )
    best = 9.0
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found = re.search(r"seconds (\S+) False False", done.stdout)
        assert found is not None, done.stdout[-200:]
        best = min(best, float(found[1]))
    assert best < 0.3
