"""Stages whose pieces are made elsewhere, from stored files and bytes alone, store what they store by themselves."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from softgrpo.common.artifacts import CANDIDATES, EMBEDDINGS, FEATURES, NUMBERS
from softgrpo.common.embeddings import create_embeddings
from softgrpo.common.records import Part
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import load_corpus, write_corpus
from softgrpo.data.windows import load_windows, write_windows
from softgrpo.errors import LeakageError
from softgrpo.pipeline.plan import plan
from softgrpo.pipeline.run import LogReporter
from softgrpo.policy.features import load_features, save_features
from softgrpo.policy.numbers import load_numbers
from softgrpo.stages import check as check_stage
from softgrpo.stages.checked import pieces_of_users
from softgrpo.stages.contract import StageContext
from softgrpo.stages.opened import Opened
from softgrpo.stages.pieces import Arrays, InThisProcess, Opener, Piece, Pieces, cut, packed, unpack
from softgrpo.tasks.running.piece_files import to_bytes
from tests.softgrpo.data.cases import corpus_of, windows_of
from tests.softgrpo.stages.test_leakage import USERS as SHOPPERS
from tests.softgrpo.stages.test_leakage import Folders, config, stored
from tests.softgrpo.stages.test_shards import DRAWN
from tests.softgrpo.stages.tiny_run import TinyRun, coloured_corpus, four_windows, random_items, run_stages, toy_model
from tests.support.whole import save_numbers

__all__ = ["config", "stored"]
FEW_EPOCHS = {"epochs": 1, "embedding_size": 8, "MAX_ITEM_LIST_LENGTH": 5}


class Elsewhere:
    """Makes pieces as another machine does: with nothing but finished stages, and what was sent as bytes."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def make(self, opener: Opener, opened: Opened, common: Arrays, asked: Iterable[Piece]) -> Iterator[Arrays]:
        job = opener(Opened(opened.config, opened.inputs), load(to_bytes(common)))
        for piece in asked:
            self.asked.append(opener.__name__)
            yield load(to_bytes(job(Piece(piece.rows, load(to_bytes(piece.given))))))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Stages in one process."""
    return small_run(tmp_path_factory.mktemp("alone"), InThisProcess())


def small_run(folder: Path, pieces: Pieces) -> TinyRun:
    """Runs the stages from `data` on; prompts tell of lists and track records."""
    items, told = random_items(len(four_windows())), {"top_items": 1, "overlap": True}
    model = toy_model(folder / "model")
    return run_stages(
        folder / "run",
        model,
        coloured_corpus(),
        items,
        pieces=pieces,
        prompt={"history_items": 0, "history_length": False, "track_record": False, "max_length": 64, **told},
    )


def files_of(run: TinyRun, *stages: str) -> dict[str, bytes]:
    """Returns the files of stages but those that are drawn."""
    files = [path for stage in stages for path in sorted(run.folders[stage].rglob("*")) if path.is_file()]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files if path.suffix not in DRAWN}


def test_pieces_made_elsewhere_are_those_of_the_stage(alone: TinyRun, tmp_path: Path) -> None:
    elsewhere = Elsewhere()
    other = small_run(tmp_path, elsewhere)
    names = ("data", "gates", "sft", "grpo", "test")
    made, expected = files_of(other, *names), files_of(alone, *names)
    assert made.keys() == expected.keys()
    assert [name for name in made if made[name] != expected[name] and "policy.json" not in name] == []
    assert set(elsewhere.asked) == {"open_lists", "open_numbers", "open_prompts", "open_policy"}


def test_small_pieces_store_the_same(alone: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softgrpo.stages.described.BLOCK", 7)
    other = small_run(tmp_path, InThisProcess())
    for name in ("features.safetensors", "numbers.safetensors", "static.json"):
        assert (other.folders["data"] / name).read_bytes() == (alone.folders["data"] / name).read_bytes()
    rows = np.arange(len(four_windows()))
    assert np.array_equal(other.prepared.stored_lists.rows(rows).items, alone.prepared.stored_lists.rows(rows).items)


def checked(config: ExperimentConfig, folders: Folders, out: Path, pieces: Pieces) -> dict[str, float]:
    """Runs the stage `check`."""
    out.mkdir()
    return check_stage.run(StageContext(config, "", folders, out, out, LogReporter("check"), pieces))


@pytest.mark.parametrize("size", [1, 20, 4096])
def test_checks_of_pieces_count_what_one_check_counts(
    config: ExperimentConfig, stored: Folders, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = checked(config, stored, tmp_path / "whole", InThisProcess())
    monkeypatch.setattr("softgrpo.stages.checked.BLOCK", size)
    elsewhere = Elsewhere()
    assert checked(config, stored, tmp_path / "pieces", elsewhere) == whole
    assert len(elsewhere.asked) == {1: SHOPPERS, 20: SHOPPERS // 4, 4096: 1}[size]


def test_the_shape_of_a_list_by_other_windows_is_seen(
    config: ExperimentConfig, stored: Folders, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(stored["data"], tmp_path / "data"))
    features, numbers = load_features(data / FEATURES), load_numbers(data / NUMBERS)
    place = numbers.names.index("FPMC: score strength")
    features.strength[7, 0] += 0.01
    numbers.values[7, place] += 0.01
    save_features(data / FEATURES, features)
    save_numbers(data / NUMBERS, numbers)
    seen = pytest.raises(LeakageError, match=r"The strength of the lists of 1 windows, window 7 the first.*LEAKAGE-019")
    with seen:
        checked(config, stored | {"data": data}, tmp_path / "check", InThisProcess())


def test_windows_of_a_user_are_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softgrpo.stages.checked.BLOCK", 3)
    opened = Opened(ExperimentConfig(), {})
    users = [0, 0, 1, 1, 1, 1, 1, 2, 4]
    opened.__dict__["of_split"] = windows_of([(user, Part.POLICY, 1, 2) for user in users], [1] * 5)
    assert [(piece.rows.start, piece.rows.stop) for piece in pieces_of_users(opened)] == [(0, 7), (7, 9)]


def test_pieces_cover_all_windows() -> None:
    assert [(len(piece), piece.rows) for piece in cut(2, 9, 3)] == [
        (3, slice(2, 5)),
        (3, slice(5, 8)),
        (1, slice(8, 9)),
    ]
    assert list(cut(0, 0, 3)) == []


def test_files_arrive_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "inside").mkdir(parents=True)
    (folder / "inside" / "a.json").write_text("{}")
    (folder / "empty").touch()
    unpack({"name": np.zeros(1), **load(to_bytes(packed(folder)))}, tmp_path / "copy")
    assert sorted(path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")) == [
        "empty",
        "inside",
        "inside/a.json",
    ]
    assert packed(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("recaller", "adapter"), [("FPMC", "off"), ("ItemKNN", "off"), ("Text", "off"), ("Text", "on")]
)
def test_lists_of_a_recaller_made_elsewhere(tmp_path: Path, recaller: str, adapter: str) -> None:
    """Another machine opens the recaller from the files that it is sent, and knows what the one knows that trained it."""
    rng = np.random.default_rng(0)
    corpus = corpus_of([rng.permutation(30)[:12].tolist() for _ in range(20)])
    windows = windows_of([(user, part, 8 + part, 9 + part) for user in range(20) for part in (1, 2, 3)], [8] * 20)
    inputs = {"split": tmp_path / "split", "embed": tmp_path / "embed"}
    for folder in inputs.values():
        folder.mkdir()
    write_corpus(inputs["split"], corpus)
    write_windows(inputs["split"], windows)
    texts = rng.normal(size=(corpus.num_items, 4)).astype(np.float32)
    create_embeddings(inputs["embed"] / EMBEDDINGS, *texts.shape)[:] = texts / np.linalg.norm(
        texts, axis=1, keepdims=True
    )
    config = ExperimentConfig.model_validate(
        {
            "recall": {
                "recallers": [recaller, "Pop"],
                "depth": 20,
                "batch_size": 8,
                "settings": {"FPMC": FEW_EPOCHS} if recaller == "FPMC" else {},
            },
            "text": {"adapter": adapter, "adapter_epochs": 1},
            "evaluation": {"ks": [5]},
            "fusion": {"k": 5},
            "split": {"method": "leave_last", "window": 1},
        }
    )
    (node,) = (node for node in plan(config) if node.variant == recaller)
    lists = []
    for name, pieces in (("here", InThisProcess()), ("elsewhere", Elsewhere())):
        out, work = tmp_path / name, tmp_path / f"{name}-work"
        out.mkdir()
        work.mkdir()
        context = StageContext(config, recaller, inputs, out, work, LogReporter(name), pieces)
        metrics = node.stage.run(context)
        assert metrics["mean_list_length"] > 0
        lists.append((out / CANDIDATES).read_bytes())
    assert lists[0] == lists[1]
    assert load_windows(inputs["split"]).of(Part.TEST).size == 20 and load_corpus(inputs["split"]).num_users == 20
