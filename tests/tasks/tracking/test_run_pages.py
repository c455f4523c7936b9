"""What a run shows of itself on MLflow's pages: its name, tags, first numbers and description."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from softgrpo.evaluation.summary import Summary
from softgrpo.presets import resolve
from softgrpo.presets.changes import find_changes
from softgrpo.tasks.tracking.descriptions import NOTE_CHARACTERS, pipeline_note, plain, short, stage_note
from softgrpo.tasks.tracking.headline import gain, headline, headline_tags, learning_curve, lines, readable
from softgrpo.tasks.tracking.run_names import About, flow_run_name, short_path

SUMMARY = Summary(10, "grpo_multi", "ItemKNN", "static", ("SofT-GRPO multi is better.",), "All learnt.")
METRICS = {
    "ndcg@10/BPR": 0.1,
    "ndcg@10/ItemKNN": 0.2,
    "ndcg@10/static": 0.25,
    "ndcg@10/sft_multi": 0.26,
    "ndcg@10/grpo_multi": 0.300049,
    "ndcg@5/grpo_multi": 0.2,
    "recall@10/grpo_multi": 0.4,
    "vs_single/grpo_multi": 0.1,
    "vs_single_low/grpo_multi": 0.05,
    "vs_single_high/grpo_multi": 0.12,
    "vs_static/grpo_multi": 0.005,
    "vs_static_low/grpo_multi": -0.0025,
    "vs_static_high/grpo_multi": 0.01,
    "vs_single/BPR": -0.1,
}


def test_changes_are_what_the_presets_do_not_say() -> None:
    config = resolve("ml-100k", "tiny")
    assert (find_changes(config).debug, find_changes(config).settings) == (False, {})
    said = {"seed": 7, "recall.recallers": ["BPR", "Pop"], "data.data_path": "x", "recall.settings.BPR.epochs": 3}
    found = find_changes(resolve("ml-100k", "tiny", "debug", {**said, "grpo.top_p": 0.5}))
    assert (found.debug, found.settings) == (True, {"recall.settings.BPR.epochs": "3", "grpo.top_p": "0.5"})


def test_a_dropped_preset_of_a_recaller_is_a_change() -> None:
    found = find_changes(resolve("ml-1m", "tiny", "full", {"recall.settings": {}})).settings
    assert found and set(found.values()) == {"(preset dropped)"}


@pytest.mark.parametrize(
    ("stage", "said", "until", "member", "name"),
    [
        ("full", {}, "test", None, "seed 42, ml-100k tiny"),
        ("debug", {"seed": 7}, "sft", None, "seed 7, debug, until sft, ml-100k tiny"),
        (
            "full",
            {"recall.recallers": ["BPR", "Pop"], "grpo.top_p": 0.5, "fusion.method": "score"},
            "test",
            "trial 3",
            "trial 3: seed 42, fusion.method=score, top_p=0.5, BPR+Pop, ml-100k tiny",
        ),
    ],
)
def test_names_say_what_differs(stage: str, said: dict[str, object], until: str, member: str | None, name: str) -> None:
    about = About.of(resolve("ml-100k", "tiny", stage, said), until, member, None)
    assert about.name == name
    assert about.tags["debug"] == ("true" if stage == "debug" else "false")


def test_prefect_lists_all_datasets_so_the_dataset_comes_first() -> None:
    config = resolve("ml-1m", "mini", "debug", {"seed": 7, "recall.recallers": ["BPR", "Pop"]})
    name = flow_run_name(config, find_changes(config), "recall")
    assert name == "ml-1m mini, seed 7, debug, until recall, BPR+Pop"


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("grpo.top_p", "top_p"),
        ("sft.learning_rate", "sft.learning_rate"),  # grpo has one too
        ("recall.settings.BPR.epochs", "BPR.epochs"),
        ("recall.targets_per_user", "targets_per_user"),
    ],
)
def test_a_setting_is_named_without_its_section_where_that_is_clear(path: str, short: str) -> None:
    assert short_path(path) == short


def test_a_name_shows_three_changes_and_how_many_more_there_are() -> None:
    said = {f"grpo.{name}": 0.3 for name in ("top_p", "tau_gumbel", "epsilon", "beta")}
    about = About.of(resolve("ml-100k", "tiny", "full", said), "test", None, None)
    assert about.name.count("=0.3") == 3 and ", 1 more change, ml-100k" in about.name
    assert about.tags["changed settings"].count("=0.3") == 4


def test_the_first_numbers_are_the_results_with_four_digits() -> None:
    found = headline(METRICS, SUMMARY, 10, ["BPR", "ItemKNN"])
    assert list(found.items())[:6] == [
        ("NDCG/SofT-GRPO", 0.3),
        ("NDCG/SFT", 0.26),
        ("NDCG/best static", 0.25),
        ("NDCG/best single", 0.2),
        ("NDCG/BPR", 0.1),
        ("NDCG/ItemKNN", 0.2),
    ]
    rest = set(found) - {name for name in found if name.startswith("NDCG/")}
    assert rest == {name for name in METRICS if name.startswith("ndcg@10") or name.endswith("/grpo_multi")} - {
        "ndcg@5/grpo_multi",
        "recall@10/grpo_multi",
    }
    assert found["ndcg@10/grpo_multi"] == 0.300049


def test_a_recaller_called_like_a_policy_does_not_take_its_place() -> None:
    found = headline(METRICS | {"ndcg@10/SFT": 0.01}, SUMMARY, 10, ["SFT"])
    assert found["NDCG/SFT"] == 0.26


def test_numbers_of_an_earlier_version_without_a_summary_are_shown_too() -> None:
    found = headline(METRICS, None, 10, ["BPR"])
    assert "NDCG/best single" not in found and found["NDCG/SofT-GRPO"] == 0.3


def test_gains_in_words() -> None:
    assert headline_tags(METRICS, SUMMARY) == {
        "vs best single": "+50% [+25, +60]",  # 0.1, 0.05 and 0.12 of 0.2
        "vs best static": "+2.0% [-1.0, +4.0]",  # 0.005, -0.0025 and 0.01 of 0.25
    }
    assert gain(METRICS, "sft_multi", "vs_single", 0.2) == ""
    assert gain(METRICS, "grpo_multi", "vs_single", 0.0) == "+0.1000 [+0.0500, +0.1200]"
    same = {f"vs_static{piece}/grpo_multi": 0.0 for piece in ("", "_low", "_high")}
    assert gain(same, "grpo_multi", "vs_static", 0.2) == "no difference"


def test_the_learning_curve_of_a_policy(tmp_path: Path) -> None:
    assert learning_curve(tmp_path, "sft") == []
    drawn = {
        "eval_ndcg_best_reading": {"step": [0.0, 5.0], "value": [0.1, 0.2]},
        "loss": {"step": [1.0], "value": [1.0]},
    }
    (tmp_path / "curves.json").write_text(json.dumps(drawn))
    assert learning_curve(tmp_path, "grpo") == [
        ("learning curve/SofT-GRPO", 0.1, 0),
        ("learning curve/SofT-GRPO", 0.2, 5),
    ]


def test_the_table_for_people_begins_with_what_is_compared() -> None:
    table = pd.DataFrame({"method": ["a"], "label": ["A"], "ndcg@5": [0.1], "ndcg@10": [0.123456], "vs_static": [0.1]})
    assert list(readable(table, 10)) == ["label", "ndcg@10", "vs_static", "method", "ndcg@5"]
    assert readable(table, 10)["ndcg@10"].tolist() == [0.1235]


def test_the_description_has_the_verdict_the_table_and_the_links() -> None:
    table = lines(METRICS, SUMMARY, ["BPR", "ItemKNN"])
    note = pipeline_note({"seed": "42"}, SUMMARY, table, {"The report": "#/x"}, {"sft": "#/y"})
    assert note.split("\n\n") == [
        "- SofT-GRPO multi is better.\n- All learnt.",
        "| method | NDCG@10 | against the best single recaller | against the best static mixture |\n|---|---|---|---|\n"
        "| BPR | 0.1000 |  |  |\n| ItemKNN, the best single recaller | 0.2000 |  |  |\n| Best static mixture | 0.2500 |  |  |\n"
        "| SFT | 0.2600 |  |  |\n| SofT-GRPO | 0.3000 | +50% &#91;+25, +60&#93; | +2.0% &#91;-1.0, +4.0&#93; |",
        "seed: 42",
        "- [The report](#/x)",
        "Runs of the stages: [sft](#/y)",
    ]
    failed = pipeline_note({"seed": "42"}, None, (), {}, {}, failure="no <b>space</b>")
    assert failed == "**The run failed.** no &#60;b&#62;space&#60;/b&#62;\n\nseed: 42"


def test_what_came_from_outside_is_shown_as_it_is() -> None:
    assert plain("a\x1b[31m\nb|c") == "a&#92;x1b&#91;31m&#92;nb&#124;c"
    assert plain("<img src=x>[a](b)*_`") == "&#60;img src=x&#62;&#91;a&#93;(b)&#42;&#95;&#96;"
    assert stage_note("recall", "B<P", "#/r").startswith(
        "Trains one recaller and stores it with its candidate lists, in a refit without lists. (B&#60;P)"
    )


def test_a_long_description_ends_with_a_whole_line() -> None:
    note = short("\n".join(["| row |"] * 2000))
    assert len(note) <= NOTE_CHARACTERS and note.endswith("| row |\n\n(shortened)")
