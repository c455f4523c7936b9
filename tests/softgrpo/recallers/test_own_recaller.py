"""The guide to one's own recaller, as it stands: export, script, run, and the message about a file for another split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import softgrpo.flows.cli as cli
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.pipeline.preflight import preflight
from softgrpo.pipeline.run import run_standalone
from softgrpo.presets import resolve
from tests.documents.test_docs import ROOT, blocks, shell_lines
from tests.support.whole import read_candidates

GUIDE = blocks(ROOT / "docs/own-recaller.md")


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs the guide's first command and its script in an empty working directory."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        export = next(text for language, text in GUIDE if language == "bash")
        assert cli.main(shell_lines(export)[0][1:]) == 0
        for language, text in GUIDE:
            if language == "python":
                exec(compile(text, "make_popular.py", "exec"), {})
    return folder


def test_the_file_of_the_guide_is_accepted_and_becomes_a_recaller(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine)
    said = {"recall.recallers": ["Popular", "Pop"], "recall.files.Popular": "mine/popular.parquet"}
    config = resolve("ml-100k", "tiny", overrides=said)
    preflight(config, "recall")
    folders = run_standalone(config, "recall", output=mine / "out").folders
    ours, theirs = (read_candidates(folders[f"recall-{name}"] / "candidates.parquet") for name in ("Popular", "Pop"))
    corpus, windows = load_corpus(folders["split"]), load_windows(folders["split"])
    exported = pd.read_parquet(mine / "mine/windows.parquet")
    assert exported["user"].tolist() == corpus.users["token"].to_numpy()[windows.user].tolist()
    assert exported["window"].tolist() == windows.start.tolist()
    # RecBole's Pop counts the same training rows; where two items have equal counts, the order may differ
    first_ours, first_theirs = np.sort(ours.items[:, 0, :20]), np.sort(theirs.items[:, 0, :20])
    assert (first_ours == first_theirs).mean() > 0.9


def test_the_message_of_the_guide_is_what_the_command_says(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(mine)
    place = max(index for index, (language, _) in enumerate(GUIDE) if language == "bash")
    assert cli.main(shell_lines(GUIDE[place][1])[0][1:]) == cli.REFUSED
    assert GUIDE[place + 1] == ("text", capsys.readouterr().err)
    assert not Path("outputs").exists()
