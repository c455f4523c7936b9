"""`softgrpo standalone`: the main job in one process."""

from __future__ import annotations

import softgrpo.flows.cli as cli
from softgrpo.presets import resolve
from tests.flows.command.conftest import Captured


def test_standalone_is_the_main_job_in_one_process(captured: Captured) -> None:
    cli.main(["standalone"])
    assert (captured.until, captured.standalone) == ("test", True)
    assert captured.config == resolve("ml-100k", "tiny")
