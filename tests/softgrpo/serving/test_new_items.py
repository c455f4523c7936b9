"""New items of a file: `Text` recommends them by the run's own encoder and adapter, other recallers go on as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softgrpo.config import ExperimentConfig
from softgrpo.errors import CandidateError, DataError, SoftGRPOError
from softgrpo.flows.results.scoring import Scored, ScoreOptions, open_to_score, score_run
from softgrpo.pipeline.run import run_standalone
from softgrpo.presets import resolve
from softgrpo.recallers.by_text import Adapter
from softgrpo.serving import new_items
from softgrpo.serving.new_items import NewItems
from softgrpo.serving.router import Router
from softgrpo.stages.embed import encoder_of
from tests.softgrpo.data.cases import INTER, Row, write_table
from tests.softgrpo.serving.test_scoring import finished
from tests.softgrpo.stages.test_texts import COLOURS, settings
from tests.softgrpo.stages.tiny_run import TinyRun

CATALOGUE = "item_id,title,price\ni0,red a,1\ni3,a pink thing,2\nn1,red d,3\nn2,blue b,4\nn3,,5\nn1,again,6\n"
"""One item as the run has it, one with another title, three new ones, of which one has no text and one comes twice."""
POOL = ("Pop", "ItemKNN", "Text")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Twelve users of nine items with titles; `Text` has an adapter. No language model is trained."""
    folder = tmp_path_factory.mktemp("shop")
    rows: list[Row] = []
    for user in range(12):
        items = [(user + step) % 8 for step in range(7)] + [8]
        rows += [(f"u{user:02}", f"i{item}", at) for at, item in enumerate(items)]
    write_table(folder / "shop" / "shop.inter", INTER, rows)
    titles: list[Row] = [(f"i{item}", f"{COLOURS[item // 3]} {'abc'[item % 3]}") for item in range(9)]
    write_table(folder / "shop" / "shop.item", "item_id:token\ttitle:token_seq", titles)
    options = {"recall.recallers": list(POOL), "text.adapter": "on", "text.adapter_epochs": 2}
    config = resolve("shop", "tiny", overrides=settings(folder, **options))
    return TinyRun(config, dict(run_standalone(config, "gates", output=folder / "out").folders))


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    (tmp_path / "new.csv").write_text(CATALOGUE)
    return tmp_path / "new.csv"


def text_scores(run: TinyRun, history: list[str], texts: dict[str, str]) -> dict[str, float]:
    """Returns the cosine of each text with the query of a history, newest last, by the formulas of `Text`, in float64."""
    config = run.config
    made = encoder_of(config).embed(list(texts.values())).astype(np.float64)
    vectors = dict(zip(texts, made, strict=True))
    maps = Adapter.load(run.folders["recall-Text"] / "model")

    def unit(vector: np.ndarray) -> np.ndarray:
        return np.asarray(vector / np.linalg.norm(vector))

    latest = history[::-1][: config.text.history_items]
    query = unit(sum(2 ** (-place / config.text.half_life) * vectors[item] for place, item in enumerate(latest)))
    query = unit(query + query @ maps.query)
    return {item: float(query @ unit(vector + vector @ maps.item)) for item, vector in vectors.items()}


TEXTS = {f"i{item}": f"{COLOURS[item // 3]} {'abc'[item % 3]}" for item in range(9)} | {"n1": "red d", "n2": "blue b"}


@pytest.mark.parametrize("history", [["i4", "i0"], ["i4", "n1"]])
def test_text_ranks_new_items_by_their_texts(run: TinyRun, catalogue: Path, history: list[str]) -> None:
    """All weight on `Text`: known and new items by falling cosine, the item without a text nowhere."""
    answer = Router.load(finished(run), "Text", catalogue).recommend(history, k=9)
    wanted = {item: score for item, score in text_scores(run, history, TEXTS).items() if item not in history}
    assert [each["item"] for each in answer["items"]] == sorted(wanted, key=lambda item: -wanted[item])
    assert answer["unknown_items"] == 0 and {each["item"]: each["title"] for each in answer["items"]}["n2"] == "blue b"
    assert all(each["from"]["Pop"] == 0 == each["from"]["ItemKNN"] for each in answer["items"])


def test_other_recallers_go_on_as_before(run: TinyRun, catalogue: Path) -> None:
    """They see the history without the new item, and never list one."""
    for method in ("Pop", "ItemKNN"):
        plain, beside = Router.load(finished(run), method), Router.load(finished(run), method, catalogue)
        expected = plain.recommend(["i4", "i0"], k=6)["items"]
        assert beside.recommend(["i4", "n1", "i0"], k=6)["items"] == expected
        assert len(expected) > 3
    assert plain.recommend(["i4", "n1", "i0"])["unknown_items"] == 1
    assert beside.recommend(["n1"])["without"] == "ItemKNN knows no item of the history, or there is none"


def scored(run: TinyRun, folder: Path, **options: object) -> tuple[pd.DataFrame, Scored]:
    (folder / "h.csv").write_text("user,item,time\na,i4,1\na,i0,2\nb,n1,1\n")
    made = score_run(finished(run), ScoreOptions(folder / "h.csv", **options), folder / "out.parquet")  # type: ignore[arg-type]
    return pd.read_parquet(made.path), made


def test_the_output_says_what_is_new(run: TinyRun, catalogue: Path, tmp_path: Path) -> None:
    table, made = scored(run, tmp_path, method="Text", k=9, item_fields=catalogue)
    count = int(table["item"].isin(["n1", "n2"]).sum())
    assert count == 3  # a gets both, b the one that it has not taken
    assert made.notes[-3:] == [
        f"{catalogue} has 3 new items: Text alone can recommend them, the other recallers were not trained on them; "
        "3 of the recommended items are new",
        "1 new item without a text, never recommended",
        f"{catalogue} has 1 item with another title or genres in the run, and those count: i3",
    ]
    assert table.loc[table["item"] == "i3", "title"].unique().tolist() == ["green a"]
    plain, _ = scored(run, tmp_path, method="Text", k=9)
    assert not plain["item"].isin(["n1", "n2"]).any()


def test_a_catalogue_without_news_changes_nothing(run: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("item,title\ni0,red a\n")
    before, _ = scored(run, tmp_path, method="Text", k=5)
    after, made = scored(run, tmp_path, method="Text", k=5, item_fields=tmp_path / "old.csv")
    pd.testing.assert_frame_equal(before, after)
    assert "old.csv has 0 new items" in made.notes[-1]


def test_embeddings_are_kept(run: TinyRun, catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder reads each new text once, in whatever file it comes, and no other texts."""
    read: list[str] = []

    class Watched:
        def __init__(self, config: ExperimentConfig) -> None:
            self.encoder = encoder_of(config)

        def embed(self, texts: list[str]) -> np.ndarray:
            read.extend(texts)
            return self.encoder.embed(texts)

    monkeypatch.setattr(new_items, "encoder_of", Watched)
    for kept in (run.folders["embed"].parent / new_items.KEPT).glob("*"):
        kept.unlink()
    first = Router.load(finished(run), "Text", catalogue).recommend(["i4"], k=9)
    assert sorted(read) == ["blue b", "red d"]
    catalogue.write_text(CATALOGUE + "n4,green d,7\n")
    second = Router.load(finished(run), "Text", catalogue).recommend(["i4"], k=9)
    assert read[2:] == ["green d"]
    order = [each["item"] for each in second["items"] if each["item"] != "n4"]
    assert order == [each["item"] for each in first["items"]][: len(order)]
    (kept,) = (run.folders["embed"].parent / new_items.KEPT).glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:100])  # a damaged file is made again
    assert Router.load(finished(run), "Text", catalogue).recommend(["i4"], k=9) == second
    assert sorted(read[3:]) == ["blue b", "green d", "red d"]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("item_id,price\nn1,3\n", DataError, r"title.*DATA-053"),
        ("name,price\nn1,3\n", DataError, r"item_id.*DATA-005"),
        ("item_id,title\n,red\n", DataError, r"row 1: item_id is empty.*DATA-052"),
        ("item_id,title\n  ,red\n", DataError, r"row 1: item_id is empty.*DATA-052"),
        ("item_id,title\nn1,\nn2,\n", DataError, r"2 items that the run does not know.*Fill title\..*DATA-054"),
        ("item_id,name,genre\nn1,,\n", DataError, r"1 item that the run does not know.*Fill name, genre\..*DATA-054"),
    ],
)
def test_bad_catalogues(run: TinyRun, tmp_path: Path, text: str, kind: type[SoftGRPOError], message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(kind, match=message):
        Router.load(finished(run), "Text", path)


def test_a_run_without_text_is_refused(run: TinyRun, catalogue: Path) -> None:
    recall = run.config.recall.model_copy(update={"recallers": ("Pop", "ItemKNN")})
    config = run.config.model_copy(update={"recall": recall})
    with pytest.raises(CandidateError, match=r"Pop, ItemKNN.*CANDIDATE-030"):
        NewItems.read(catalogue, config, run.prepared.corpus.items)


def test_a_bad_catalogue_is_refused_before_anything_is_written(
    run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "h.csv").write_text("user,item\na,i4\n")
    (tmp_path / "bad.csv").write_text("item_id,price\nn1,3\n")
    monkeypatch.setattr("softgrpo.flows.results.scoring.open_stored", lambda run_id, output: finished(run))
    with pytest.raises(DataError, match="DATA-053"):
        open_to_score("abc", tmp_path, ScoreOptions(tmp_path / "h.csv", item_fields=tmp_path / "bad.csv", k=2))
