"""The estimate of a run's memory and disk: what is counted, by hand, and which runs are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.estimates import measure_estimates
from softgrpo.common import scratch
from softgrpo.config import ExperimentConfig, LimitsConfig
from softgrpo.data.size import DataSize
from softgrpo.errors import MemoryLimitError, StoreError
from softgrpo.evaluation import beyond
from softgrpo.pipeline import disk_costs, memory_costs
from softgrpo.pipeline.memory_costs import aligned_bytes
from softgrpo.pipeline.plan import plan
from softgrpo.pipeline.resources import Needs, Room, amount, check_room, estimate_lines, needs
from softgrpo.pipeline.run import run_standalone
from softgrpo.presets import resolve
from softgrpo.recallers import list_parts, stored_lists
from softgrpo.stages import shards
from softgrpo.stages.contract import Node
from tests.support.fake_stages import FakeStages

SIZE = DataSize(users=100, items=1000, interactions=5000, training=2000, policy=400, valid=100, test=100, windows=700)


def of_stage(config: ExperimentConfig, name: str, size: DataSize = SIZE) -> tuple[float, float]:
    """Returns memory and disk of a node."""
    expected = needs([node for node in plan(config) if node.name == name], config, size)
    return expected.memory[name], expected.disk[name]


def test_lists_are_aligned_over_their_union_by_hand() -> None:
    config = resolve("ml-100k", "tiny")  # three lists of 100
    # a union of 10 items: ids of 8 bytes, a rank and a value of 4 bytes for each list, places of 101 entries of 8 bytes
    assert aligned_bytes(config, 10) == 10 * 8 + 3 * 10 * (4 + 4) + 3 * 101 * 8


def test_the_estimate_counts_with_the_sizes_that_the_stages_hold() -> None:
    """The estimate may not import the stages, which would load torch, so it has these numbers once more."""
    assert memory_costs.HELD_BYTES == shards.HELD_BYTES and memory_costs.ENTRY_BYTES == stored_lists.ENTRY_BYTES
    assert memory_costs.SHARD == beyond.CHUNK and memory_costs.GIVEN_ROWS >= list_parts.PART_ROWS
    assert memory_costs.SCRATCH_BYTES == scratch.IN_MEMORY and memory_costs.GIVEN_BYTES == shards.GIVEN_BYTES


def test_what_grows_with_the_data() -> None:
    config = resolve("ml-100k", "tiny", overrides={"recall.recallers": ["EASE", "Pop"]})
    twice = replace(SIZE, items=2000)
    memory, disk = (
        more - less
        for more, less in zip(of_stage(config, "recall-EASE", twice), of_stage(config, "recall-EASE"), strict=True)
    )
    # matrices of all pairs of items, a batch of scores, embeddings
    pairs = memory_costs.PAIR_BYTES * (2000**2 - 1000**2)
    rest = 1000 * (memory_costs.SCORE_BYTES * 700 + 4 * memory_costs.WIDTH * memory_costs.COPIES)
    assert memory == pytest.approx(pairs + rest)
    assert disk == pytest.approx(4 * (2000**2 - 1000**2))
    lists = of_stage(config, "data", replace(SIZE, windows=1700))[1] - of_stage(config, "data")[1]
    assert lists >= 1000 * 2 * 100 * disk_costs.ENTRY_BYTES


def test_processes_that_train_together_count_together() -> None:
    alone = resolve("ml-100k", "tiny", overrides={"train.device": "cpu", "train.gradient_accumulation_steps": 2})
    two = alone.model_copy(update={"train": alone.train.model_copy(update={"processes": 2})})
    (node,) = [node for node in plan(alone) if node.name == "grpo"]
    grows = memory_costs.GROWTH["grpo"]
    assert grows(node, two, SIZE) == pytest.approx(2 * grows(node, alone, SIZE))


def test_recallers_that_are_trained_at_once_count_together() -> None:
    expected = Needs({"recall-A": 3.0, "recall-B": 2.0, "recall-C": 1.0, "test": 4.0}, {})
    assert expected.peak() == ("test", 4.0)
    assert expected.peak(2) == ("2 recallers at once", 5.0)


@pytest.mark.parametrize(
    ("size", "words"), [(1.0, "10 MB"), (123e6, "120 MB"), (1.04e9, "1.0 GB"), (25.37e9, "25.4 GB")]
)
def test_sizes_are_told_roughly(size: float, words: str) -> None:
    assert amount(size) == words


def test_room_is_the_limit_or_what_is_free_where_the_output_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=7)

    monkeypatch.setattr("softgrpo.pipeline.resources.shutil.disk_usage", usage)
    monkeypatch.setattr("softgrpo.pipeline.resources.free_bytes", lambda: 5)
    output = tmp_path / "not" / "yet"
    assert Room.of(LimitsConfig(), output) == Room(5, 7, output)
    assert Room.of(LimitsConfig(memory_gb=2), output).memory == 2e9
    assert asked == [tmp_path, tmp_path]


EXPECTED = Needs({"data": 2e9, "test": 3e9}, {"data": 4e9, "test": 1e9})


def test_more_memory_than_is_allowed_or_free_is_refused(tmp_path: Path) -> None:
    limits = LimitsConfig(memory_gb=2.5)
    with pytest.raises(MemoryLimitError, match=r"^limits\.memory_gb = 2\.5 for test, which will take about 3\.0 GB"):
        check_room(EXPECTED, Room(2.5e9, 1e12, tmp_path), limits)
    with pytest.raises(MemoryLimitError, match=r"^2\.5 GB of free memory for test.* End other programs, or set limits"):
        check_room(EXPECTED, Room(2.5e9, 1e12, tmp_path), LimitsConfig())
    check_room(EXPECTED, Room(3e9, 5e9, tmp_path), limits)


def test_more_files_than_there_is_room_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"4\.9 GB free, for files of about 5\.0 GB"):
        check_room(EXPECTED, Room(1e12, 4.9e9, tmp_path), LimitsConfig())


def one_stage(config: ExperimentConfig, until: str) -> tuple[Node, ...]:
    return FakeStages().nodes()[:1]


def test_a_run_that_cannot_end_starts_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softgrpo.pipeline.run.plan", one_stage)
    config = resolve("ml-100k", "tiny", overrides={"limits.memory_gb": 0.3})
    with pytest.raises(MemoryLimitError, match="MEMORY-003"):
        run_standalone(config, output=tmp_path)
    assert not list(tmp_path.rglob("made"))
    run_standalone(resolve("ml-100k", "tiny"), output=tmp_path)
    assert list(tmp_path.rglob("made"))


def test_the_room_of_other_machines_is_not_known_here(tmp_path: Path) -> None:
    config = resolve("ml-100k", "tiny", overrides={"limits.memory_gb": 0.3})
    (line,) = estimate_lines(plan(config), config, None)
    assert line.startswith("estimate: about ")
    assert estimate_lines([], config, tmp_path) == []


def test_files_that_are_stored_twice_count_twice(tmp_path: Path) -> None:
    config = resolve("ml-100k", "tiny")
    nodes, told = plan(config), []
    for copies in (1, 2):
        told.append(float(estimate_lines(nodes, config, tmp_path, 1, copies)[1].split()[-4]))
    assert told[1] == pytest.approx(2 * told[0], abs=10)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_estimate_is_within_a_factor_of_two_of_what_a_run_takes() -> None:
    rows = measure_estimates()
    assert len(rows) == 14
    assert {row.what: row.details for row in rows if row.verdict != "met"} == {}
