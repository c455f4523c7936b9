"""What README and tutorial do with running servers, line by line in a shell."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from softgrpo.flows.services.control import Services
from tests.documents.documented import documented
from tests.project.test_editor import write_as
from tests.reliability.conftest import in_shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_deployments_run_as_the_documents_say(services: Services, tmp_path: Path) -> None:
    """With less behind each line, and waited for; whole pipelines are run by deployments in `test_pages.py`."""
    write_as("ml-1m", tmp_path, {"class.item": "genre"})
    less = {"debug": True, "until": "recall", "recallers": ["Pop", "ItemKNN"]}
    data = {"ml-1m": {"overrides": {"data.data_path": str(tmp_path)}}}
    script = []
    for line in documented("deployments"):
        more = less | data.get(line.rpartition("=")[2], {})
        given = "".join(f" -p {shlex.quote(f'{name}={json.dumps(value)}')}" for name, value in more.items())
        script.append(f"{line}{given} --watch" if line.startswith("prefect ") else line)
    assert [line.split()[0] for line in script] == ["eval", "prefect", "prefect"]
    said = in_shell("\n".join(script), services.output, {"PREFECT_HOME": str(tmp_path / "home")})
    assert said.count("Flow run finished successfully") == 2
    for recaller in less["recallers"]:  # in the output folder of these services
        assert len(list(services.output.glob(f"stages/recall-{recaller}-*.json"))) == 2
