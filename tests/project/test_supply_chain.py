"""The workflow that lists and audits the pinned versions. What the tools themselves find, only a network can tell."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def test_workflows_keep_the_published_schema() -> None:
    assert WORKFLOWS
    check = str(Path(sys.executable).parent / "check-jsonschema")
    words = [check, "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_nothing_that_workflows_fetch_can_change_under_its_name() -> None:
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        for action in re.findall(r"uses:\s*(\S+)", text):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        for line in re.findall(r"pip install (.*)", text):
            words = line.split()
            assert "--require-hashes" in words and words[-2:] == ["--requirement", ".github/requirements.txt"]
    requirements = re.sub(r" \\\n +", " ", (ROOT / ".github/requirements.txt").read_text(encoding="utf-8")).splitlines()
    assert [line for line in requirements if not re.fullmatch(r"\S+==\S+( --hash=sha256:[0-9a-f]{64})+", line)] == []
    assert {"cyclonedx-bom", "pip-audit"} <= {line.partition("==")[0] for line in requirements}


def test_every_pinned_version_is_audited() -> None:
    """pip-audit reads names and exact versions alone; a line that it does not understand would not be looked up."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert len(pinned) > 200
    assert [line for line in pinned if not re.fullmatch(r"[\w.-]+==[\w.!+-]+", line)] == []
