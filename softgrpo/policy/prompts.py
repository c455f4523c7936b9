"""The one prompt formatter: SFT, SofT-GRPO and test all read a window through this module.

A prompt has a head, the history's items from oldest to newest, and a tail. Over-long prompts lose their oldest items first, then
the recallers' top items, then the recallers' lines; never the user line, the track record and the question. Nothing in a prompt
comes from behind the window's history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from softgrpo.common.columns import Columns
from softgrpo.common.records import CandidateLists, Corpus, Windows
from softgrpo.config import PromptConfig
from softgrpo.data.windows import history_of
from softgrpo.errors import PolicyError
from softgrpo.policy.blocks.block import of_recaller
from softgrpo.policy.blocks.pace import DAY_SECONDS, in_seconds
from softgrpo.policy.catalogue import Catalogue
from softgrpo.policy.features import Features
from softgrpo.policy.numbers import BLOCKS, WindowNumbers

LEVELS = ("very low", "low", "medium", "high", "very high")
TRACK_LEVELS = ((0.0, "none"), (0.1, "poor"), (0.25, "fair"), (0.5, "good"))
DESCRIPTIONS = {
    "BPR": "matrix factorisation, long-term taste",
    "SASRec": "self-attention over the sequence, recent interest",
    "ItemKNN": "items similar to the history",
    "LightGCN": "graph convolution, long-term taste",
    "Pop": "most popular items",
    "EASE": "linear item similarities",
    "FPMC": "first-order Markov chain, next after the last item",
    "Text": "items whose texts are like those of the latest ones",
    "GRU4Rec": "recurrent network over the sequence, recent interest",
}


@dataclass(frozen=True)
class PromptParts:
    """A prompt before tokenisation.

    Attributes:
        head: Text before the history.
        items: The history's items, oldest first.
        tail: Text behind the history; kept whole as long as there is history left to lose.
        shorter: Stand-ins for the tail once all items are lost, each shorter than the one before.
    """

    head: str
    items: tuple[str, ...]
    tail: str
    shorter: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """The most that `text` can drop: every item, then every tail but the last."""
        return len(self.items) + len(self.shorter)

    def text(self, dropped: int = 0) -> str:
        """Returns the prompt after `dropped` of its `steps`: without its oldest items, then with a shorter tail."""
        kept = self.items[dropped:]
        history = f"History, newest last: {'; '.join(kept)}.\n" if kept else ""
        tail = (self.tail, *self.shorter)[max(dropped - len(self.items), 0)]
        return f"{self.head}{history}{tail}"


def level(quantile: float) -> str:
    """Returns a quantile in [0, 1] in one of five words."""
    return LEVELS[min(int(quantile * len(LEVELS)), len(LEVELS) - 1)]


def track_word(ndcg: float) -> str:
    """Returns a mean NDCG in one of five words: none (0), poor (up to 0.1), fair (0.25), good (0.5), excellent."""
    return next((word for bound, word in TRACK_LEVELS if ndcg <= bound), "excellent")


class PromptFormatter:
    """Turns windows into prompt parts.

    Args:
        config: What prompts contain.
        corpus: Users, items and sequences.
        windows: All windows.
        lists: Candidate lists of all windows.
        features: Features of all windows.
        numbers: Numbers of all windows, of which `config.blocks` are told.
        catalogue: What is said of items; None takes it from the corpus.
    """

    def __init__(
        self,
        config: PromptConfig,
        corpus: Corpus,
        windows: Windows,
        lists: CandidateLists,
        features: Features,
        numbers: WindowNumbers,
        catalogue: Catalogue | None = None,
    ) -> None:
        self._config = config
        self._corpus = corpus
        self._windows = windows
        self._lists = lists
        self._features = features
        self._numbers = numbers
        self._told = {name: word for block in config.blocks for name, word in BLOCKS[block].told.items()}
        told = catalogue or Catalogue.of(corpus.items, in_seconds(corpus.time), titles=config.titles)
        self._names, self._genres, self._seconds = told.names, told.genres, told.seconds
        self._fields = [column for column in corpus.users.columns if column != Columns.Token]

    def parts(self, window: int) -> PromptParts:
        """Returns the prompt of one window."""
        user = int(self._windows.user[window])
        history = history_of(self._corpus, self._windows, window)
        head = self._user(window, user, len(history))
        tail, *shorter = self._tails(window)
        return PromptParts(head, self._history(user, history), tail, tuple(shorter))

    def _tails(self, window: int) -> list[str]:
        """Returns the tail, then what is left of it without top items, and without the recallers' lines."""
        end = [*self._track(window), "Which recaller serves this user best now?"]
        choices: list[list[str]] = [self._recallers(window, self._config.top_items), self._recallers(window, 0), []]
        return list(dict.fromkeys("\n".join([*lines, *end]) for lines in choices))  # what is switched off is no step

    def _levels(self, window: int, recaller: str = "") -> list[str]:
        """Returns what is told of the numbers of a recaller, or of the window where none is named, in words."""
        words = []
        for name, word in self._told.items():
            place = self._numbers.level(window, of_recaller(recaller, name) if recaller else name)
            if place is not None:
                words.append(f"{word} {LEVELS[place]}")
        return words

    def _user(self, window: int, user: int, length: int) -> str:
        fields = self._fields if self._config.user_fields else []
        values = [str(self._corpus.users[field].iloc[user]) for field in fields]
        count = [f"{length} items"] if self._config.history_length else []
        known = [value for value in values if value] + count + self._levels(window)
        return f"User: {', '.join(known)}.\n" if known else ""

    def _history(self, user: int, history: NDArray[np.int32]) -> tuple[str, ...]:
        begin = max(len(history) - self._config.history_items, 0)
        times = self._corpus.time[self._corpus.offsets[user] :][: len(history)]
        lines: list[str] = []
        for position in range(begin, len(history)):
            item = int(history[position])
            genres = f" ({self._genres[item]})" if self._config.genres and self._genres[item] else ""
            gap = ""
            pause = times[position] - times[position - 1] if position else np.nan
            if self._config.time_gaps and self._seconds and np.isfinite(pause):
                days = int(pause // DAY_SECONDS)
                gap = f"{days} days later " if days > 1 else "next day " if days == 1 else ""
            lines.append(f"{gap}{self._names[item]}{genres}")
        return tuple(lines)

    def _recallers(self, window: int, top_items: int) -> list[str]:
        config, features, lines = self._config, self._features, []
        for index, name in enumerate(self._lists.recallers):
            facts: list[str] = []
            if config.recaller_lines and name in DESCRIPTIONS:
                facts.append(DESCRIPTIONS[name])
            if self._lists.items[window, index, 0] < 0:
                lines.append(f"{name}: {', '.join([*facts, 'no candidates'])}")
                continue
            if config.list_shape:
                strength, peak = features.strength[window, index], features.peak[window, index]
                facts.append(f"strength {level(float(strength))}, peak {level(float(peak))}")
            if config.overlap:
                facts.append(f"overlap {round(100 * float(features.overlap[window, index]))}%")
            facts += self._levels(window, name)
            if top_items:
                top = self._lists.items[window, index, :top_items]
                facts.append("top " + " | ".join(self._names[item] for item in top[top >= 0]))
            if facts:
                lines.append(f"{name}: {', '.join(facts)}")
        return lines

    def _track(self, window: int) -> list[str]:
        if not self._config.track_record:
            return []
        if not self._features.track_count[window]:
            return ["Track record: none yet"]
        words: list[str] = []
        for index, name in enumerate(self._lists.recallers):
            rank = float(self._features.track_rank[window, index])
            where = f" rank {round(rank)}" if np.isfinite(rank) else ""
            words.append(f"{name} {track_word(float(self._features.track_ndcg[window, index]))}{where}")
        return [f"Track record: {', '.join(words)}"]


@dataclass(frozen=True)
class EncodedPrompts:
    """Token ids of prompts.

    Attributes:
        input_ids: One list per prompt, special tokens and chat template included, nothing padded.
        truncated_share: Share of prompts that lost anything, at least one history item.
    """

    input_ids: list[list[int]]
    truncated_share: float


def _tokenise(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    if tokenizer.chat_template is None:
        return list(tokenizer(texts)["input_ids"])
    chats = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in texts
    ]
    return list(tokenizer(chats, add_special_tokens=False)["input_ids"])  # the template writes its own special tokens


def encode(parts: Sequence[PromptParts], tokenizer: PreTrainedTokenizerBase, max_length: int) -> EncodedPrompts:
    """Tokenises prompts, the chat template applied exactly once where the tokenizer has one.

    Args:
        parts: The prompts.
        tokenizer: Of the language model.
        max_length: Tokens per prompt; longer prompts lose as few of their steps as it takes (bisection), see `PromptParts`.

    Raises:
        PolicyError: A prompt is too long even without all that it may lose.
    """
    ids: list[list[int]] = [[] for _ in parts]
    low = [0] * len(parts)  # fewest steps to drop
    high = [part.steps + 1 for part in parts]  # from here on it fits
    tried, waiting = list(low), list(range(len(parts)))  # most prompts fit whole, so that is tried first
    while waiting:
        encoded = _tokenise([parts[index].text(tried[index]) for index in waiting], tokenizer)
        for index, found in zip(waiting, encoded, strict=True):
            if len(found) <= max_length:
                ids[index], high[index] = found, tried[index]
            else:
                low[index] = tried[index] + 1
            tried[index] = (low[index] + high[index]) // 2
        # a middle is below `high`, so no more steps are dropped than there are
        waiting = [index for index in waiting if low[index] < high[index]]
    bare = next((part for part, drop in zip(parts, high, strict=True) if drop > part.steps), None)
    if bare is not None:
        raise PolicyError(
            f"a prompt of {len(_tokenise([bare.text(bare.steps)], tokenizer)[0])} tokens without history and recallers' lines",
            f"prompt.max_length = {max_length} tokens must hold the user line, the track record and the question",
            "Raise --prompt.max_length, or switch parts of the prompt off (--prompt.user_fields false)",
            code="POLICY-025",
        )
    return EncodedPrompts(ids, float(np.mean([drop > 0 for drop in high])) if parts else 0.0)
