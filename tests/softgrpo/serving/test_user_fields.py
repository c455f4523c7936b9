"""What is known of users now: it goes before what the run knows, and reaches the prompt and the weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softgrpo.config import DataConfig
from softgrpo.data.streams import Shard
from softgrpo.errors import DataError
from softgrpo.flows.results.scoring import ScoreOptions, score_run
from softgrpo.serving.router import Router
from softgrpo.serving.user_fields import open_user_fields, read_user_fields
from tests.softgrpo.serving.test_scoring import files, finished
from tests.softgrpo.stages.tiny_run import (
    DEPTH,
    RECALLERS,
    TinyRun,
    coloured_corpus,
    four_windows,
    random_items,
    run_stages,
    toy_model,
)

__all__ = ["files"]
LISTS = {name: [(f"i{item}", float(-item)) for item in range(20, 40)] for name in RECALLERS}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run whose prompts tell the users' colour: Left finds the targets of red users, Right of green ones. Lists are given."""
    folder, corpus = tmp_path_factory.mktemp("colours"), coloured_corpus()
    items, windows = random_items(160), four_windows()
    for window in range(160):
        user = windows.user[window]
        targets = corpus.sequence(user)[windows.start[window] : windows.end[window]]
        for place in range(2):
            others = items[window, place][~np.isin(items[window, place], targets)]
            ranked = [*targets, *others] if place == user % 2 else [*others, *targets]
            items[window, place] = ranked[:DEPTH]
    learn = {"learning_rate": 1e-2, "num_train_epochs": 4}
    made = run_stages(folder / "run", toy_model(folder / "base"), corpus, items, "sft", sft=learn)
    files_only = {"files": dict.fromkeys(RECALLERS, Path("x"))}
    recall = made.config.recall.model_copy(update=files_only)
    return replace(made, config=made.config.model_copy(update={"recall": recall}))


def test_a_file_by_hand(tmp_path: Path) -> None:
    """The first row of a user counts, a missing value is "", and users that are not in the file are unknown."""
    path = tmp_path / "users.csv"
    path.write_text("user_id,age,gender,town\nb,30,,Rome\na,20,F,Oslo\nb,31,M,Rome\n")
    config = DataConfig(dataset="toy", user_field="user_id")
    stream = open_user_fields(path, config, ["age", "gender", "job"])
    found = read_user_fields(stream, Shard(), ["c", "b", "a"])
    assert found.to_dict("list") == {"age": ["", "30", "20"], "gender": ["", "", "F"]}
    path = tmp_path / "users.parquet"
    pd.DataFrame({"user": ["a", "b"], "age": [20.0, np.nan], "gender": [None, "M"]}).to_parquet(path)
    found = read_user_fields(open_user_fields(path, config, ["age", "gender"]), Shard(), ["a", "b"])
    assert found.to_dict("list") == {"age": ["20", ""], "gender": ["", "M"]}
    for columns, message in (
        ("user,town", "a field of the users that the run knows: age"),
        ("id,age", "column 'user'"),
    ):
        (tmp_path / "bad.csv").write_text(f"{columns}\na,1\n")
        with pytest.raises(DataError, match=message):
            open_user_fields(tmp_path / "bad.csv", config, ["age"])


def test_a_new_user_s_fields_reach_the_prompt_and_the_weights(run: TinyRun) -> None:
    router = Router.load(finished(run), "sft_multi")
    taken = ["i1", "i2"]
    prompts = [router.prompt(taken, lists=LISTS, fields=fields) for fields in (None, {"colour": "red"})]
    assert "red" not in prompts[0] and "red" in prompts[1]
    assert "green" in router.prompt(taken, user="u0", lists=LISTS, fields={"colour": "green"})  # u0 is red in the run
    weights = [
        router.recommend(taken, lists=LISTS, fields=fields)["weights"]["Left"]
        for fields in (None, {"colour": "red"}, {"colour": "green"})
    ]
    assert len(set(weights)) == 3
    with pytest.raises(DataError, match=r"field 'color'.*colour"):
        router.recommend(taken, lists=LISTS, fields={"color": "red"})


def test_a_file_gives_what_the_router_gives(run: TinyRun, files: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    """new0 is told to be green; without the file it is what it was."""
    (tmp_path / "users.csv").write_text("user,colour\nnew0,green\n")
    options = ScoreOptions(*files, users=["new0", "new1"], method="sft_multi", user_fields=tmp_path / "users.csv")
    told = pd.read_parquet(score_run(finished(run), options, tmp_path / "told.parquet").path).set_index("user")
    plain = ScoreOptions(*files, users=["new0", "new1"], method="sft_multi")
    untold = pd.read_parquet(score_run(finished(run), plain, tmp_path / "untold.parquet").path).set_index("user")
    assert told.loc["new0", "weight_Left"].iloc[0] != untold.loc["new0", "weight_Left"].iloc[0]
    np.testing.assert_allclose(told.loc["new1", "weight_Left"], untold.loc["new1", "weight_Left"], atol=1e-6)
