"""The pages of finished runs as Markdown, and the sentences on what differs."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from softgrpo.evaluation.summary import Summary
from softgrpo.flows.results import prefect_page
from softgrpo.flows.results.differences import differing
from softgrpo.flows.results.prefect_page import (
    comparison_markdown,
    escape,
    group_page,
    markdown_table,
    run_page,
    stages_in_words,
)
from softgrpo.flows.results.tune_page import StudyParts, study_html, study_page, study_sentences

NAN = math.nan


def row(method: str, label: str, ndcg: float, single: float = NAN, static: float = NAN, **more: Any) -> dict[str, Any]:
    """A row of a table; p is 0.25 against the single recaller, 0.0004 against the mixture, NaN where nothing is compared."""
    found = {"method": method, "label": label, "kind": "learned", "ndcg@10": ndcg, "recall@10": 2 * ndcg}
    for name, value, p in (("vs_single", single, 0.25), ("vs_static", static, 0.0004), ("vs_first", single, 0.5)):
        relative, tested = (NAN, NAN) if math.isnan(value) else (value / 0.1, p)
        found |= {name: value, f"{name}_relative": relative, f"{name}_p": tested, f"{name}_p_bound": False}
    return found | more


TABLE = pd.DataFrame(
    [
        row("BPR", "BPR (best single)", 0.1, static=0.02, kind="single"),
        row("static", "Best static mixture (grid search)", 0.08, single=-0.02),
        row("grpo_multi", "SofT-GRPO multi", 0.1, single=-0.00001, static=0.02, vs_static_p_bound=True),
    ]
)
SUMMARY = Summary(10, "grpo_multi", "BPR", "static", ("A is [better] than B.", "A is like C."), "Nothing was learnt.")


def test_the_table_has_words_for_headings_and_at_most_eight_columns() -> None:
    lines = comparison_markdown(TABLE, SUMMARY).splitlines()
    assert lines == [
        "| method | NDCG<br>@10 | difference to the<br>best single recaller | p "
        "| difference to the<br>best static mixture | p |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| BPR (best single) | 0.1000 |  |  | +0.0200 (+20.0%) | 0.0004 |",
        "| Best static mixture<br>(grid search) | 0.0800 | -0.0200 (-20.0%) | 0.25 |  |  |",
        "| **SofT-GRPO multi** | **0.1000** | **0.0000 (0.0%)** | **0.25** | **+0.0200 (+20.0%)** | **≤0.0004** |",
    ]


def test_the_page_begins_with_the_verdict_and_holds_the_figure(tmp_path: Path) -> None:
    figure = tmp_path / "comparison.png"
    figure.write_bytes(b"a picture")
    page = run_page(
        TABLE, SUMMARY, figure, {"report": "[report.html](http://there)"}, ["test"], ["split", "recall-BPR"]
    )
    assert page.startswith("- **A is \\[better\\] than B.**\n- A is like C.\n- Nothing was learnt.\n\n## Comparison")
    assert f"(data:image/png;base64,{base64.b64encode(b'a picture').decode()})" in page
    assert "- report: [report.html](http://there)\n" in page
    assert page.endswith(
        "- Made by this run: evaluation.\n- Reused from earlier runs: split of the data, recaller BPR.\n"
    )
    assert "vs_" not in page and "ndcg" not in page


def test_a_run_that_ends_early_says_so() -> None:
    page = run_page(None, None, None, {"MLflow run": "`abc`"}, ["split"], [])
    assert page.startswith("This run ended before the evaluation")
    assert "This run made all of its stages itself." in page and "|" not in page and "![" not in page


def test_stages_in_words() -> None:
    assert stages_in_words([], ["split"]) == "All stages were reused from earlier runs; this run trained nothing."
    assert stages_in_words(["sft", "grpo"], ["data"]) == (
        "- Made by this run: SFT, SofT-GRPO.\n- Reused from earlier runs: candidates and prompts."
    )


def test_markdown_shows_marks_as_they_are() -> None:
    assert escape("a|b *c* _d_ <e> [f] `g` \\") == "a\\|b \\*c\\* \\_d\\_ \\<e> \\[f\\] \\`g\\` \\\\"
    assert markdown_table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_page_of_a_group_has_verdicts_differences_and_the_main_rows() -> None:
    rows = [
        row("one/BPR", "one: BPR (best single)", 0.1, run="one", kind="single"),
        row("one/gate_boosting", "one: Boosted trees", 0.1, single=0.0, run="one", kind="gate"),
        row("two/grpo_multi", "two: SofT-GRPO multi", 0.12, single=0.02, run="two"),
    ]
    page = group_page(["two is better."], ["two differs from one in seed (2, not 1)."], pd.DataFrame(rows), 10, "there")
    assert page.startswith("- **two is better.**\n\n- two differs from one in seed (2, not 1).\n")
    assert "| two: SofT-GRPO multi | 0.1200 | +0.0200 (+20.0%) | +0.0200 (+20.0%) | 0.5 |" in page
    assert "Boosted trees" not in page and "- the runs side by side: there\n" in page
    assert max(line.count(" | ") for line in page.splitlines()) + 1 <= 8


def test_runs_differ_in_what_changes_numbers() -> None:
    base = {"seed": "42", "data.data_path": "here", "fusion.method": "rrf"}
    found = differing(
        {
            "a": base,
            "b": base | {"seed": "7", "data.data_path": "there"},
            "c": base | {"data.data_path": "there"},
            "d": {"seed": "42", "fusion.method": "score", "fusion.normalisation": "z_score"},
        }
    )
    assert found == (
        "b differs from a in seed (7, not 42).",
        "c has the settings of a.",
        "d differs from a in fusion.method (score, not rrf), fusion.normalisation (z_score, not unset).",
    )


def test_settings_of_a_recaller_that_only_one_pool_has_go_without_saying() -> None:
    one = {"recall.recallers": '["BPR", "Pop"]', "recall.settings.BPR.epochs": "3"}
    two = {"recall.recallers": '["BPR", "EASE"]', "recall.settings.BPR.epochs": "9", "recall.settings.EASE.reg": "1"}
    assert differing({"one": one, "two": two}) == (
        "two differs from one in recall.recallers (BPR + EASE, not BPR + Pop), recall.settings.BPR.epochs (9, not 3).",
    )
    tuned = two | {"recall.settings.EASE.reg": "2", "recall.settings.EASE.depth": "5"}
    assert differing({"two": two, "tuned": tuned}) == (
        "tuned differs from two in recall.settings.EASE.reg (2, not 1), recall.settings.EASE.depth (5, not unset).",
    )


def trials(*values: float, states: str = "complete complete pruned") -> pd.DataFrame:
    """Three trials with these learning rates 1, 2, 3 and validation NDCG."""
    names = states.split()
    return pd.DataFrame(
        {
            "trial": range(len(names)),
            "state": names,
            "validation_ndcg": values,
            "grpo.learning_rate": [1.0, 2.0, 3.0][: len(names)],
        }
    )


def test_a_study_says_what_was_better_than_its_start() -> None:
    better = trials(0.1, 0.12, NAN)
    assert study_sentences(better, {"grpo.learning_rate": 2.0}, 10) == (
        "Trial 1 is the best: validation NDCG@10 0.1200, +0.0200 against the settings that the search started from; "
        "2 of 3 trials came to their end.",
        "It differs from the start in grpo.learning_rate (2, not 1).",
    )
    assert study_sentences(trials(0.12, 0.12, NAN), {"grpo.learning_rate": 1.0}, 10) == (
        "No trial beats the settings that the search started from: validation NDCG@10 0.1200; "
        "2 of 3 trials came to their end.",
    )
    lost = trials(NAN, 0.12, NAN, states="pruned complete pruned")
    assert study_sentences(lost, {"grpo.learning_rate": 2.0}, 10)[0] == (
        "Trial 1 is the best: validation NDCG@10 0.1200; 1 of 3 trials came to their end."
    )
    parts = StudyParts(
        "study-1", "abc", better.assign(reason=["", "", "<bad>"]), {"grpo.learning_rate": 2.0}, 10, "softgrpo run x"
    )
    whole = study_html("<ml> tiny", parts, "http://127.0.0.1:5000/run")
    assert (
        "&lt;ml&gt; tiny" in whole and "&lt;bad&gt;" in whole and "<bad>" not in whole and whole.count("<svg") == 2
    )  # wide and narrow
    assert 'href="http://127.0.0.1:5000/run"' in whole and "softgrpo run x" in whole and "nan" not in whole
    assert re.findall(r'<tr class="learned"><th scope="row">(.*?)</th>', whole) == [
        "<code>grpo.learning_rate</code>",
        "1",
    ]
    one = replace(parts, trials=better.assign(reason="").iloc[[1]])
    assert "<svg" not in study_html("t", one, None) and "there is nothing to compare it with" in study_html(
        "t", one, None
    )
    page = study_page(better, {"grpo.learning_rate": 2.0}, 10, "softgrpo run x", "there")
    assert "| trial | validation NDCG@10 | learning rate |" in page
    assert "| 2, pruned |  | 3 |" in page and "```sh\nsoftgrpo run x\n```" in page


def test_a_long_name_without_a_bracket_breaks_between_words() -> None:
    """The page is narrow, and its cells do not wrap by themselves."""
    assert prefect_page._label("Static mixture per third of history length") == (
        "Static mixture per third<br>of history length"
    )
    assert prefect_page._label("Nearest neighbours") == "Nearest neighbours"
    assert prefect_page._label("Global weights (cross-entropy method)") == "Global weights<br>(cross-entropy method)"
