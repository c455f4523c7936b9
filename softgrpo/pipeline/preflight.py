"""All checks that can be made before anything is trained or written, in the order of what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from softgrpo.common.names import TEXT
from softgrpo.common.records import Part, Windows
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import read_corpus
from softgrpo.data.cross_fit import all_windows, check_parts, cross_fit
from softgrpo.data.examine import usual_columns_note
from softgrpo.data.item_texts import few_texts_note, item_texts
from softgrpo.data.size import note_size
from softgrpo.data.windows import check_no_leak, make_windows, tied_target_share
from softgrpo.errors import ConfigError, DataError, RecallerError
from softgrpo.policy.model_files import check_reachable, model_of_texts
from softgrpo.presets.changes import starting_point
from softgrpo.recallers.plugins import complete_settings, plugin_names
from softgrpo.recallers.registry import check_pool, check_settings
from softgrpo.stages.contract import LANGUAGE_MODEL_STAGES
from softgrpo.stages.together import check_gpus

TIED_SHARE_WORTH_A_NOTE = 0.5


def preflight(config: ExperimentConfig, until: str = "test") -> list[str]:
    """Checks recallers, their settings or files, the data and, where the plan needs one, the language model.

    Args:
        config: The resolved configuration.
        until: Last stage wanted; a model is not looked for where none is needed.

    Returns:
        Notes for the reader, one line each.

    Raises:
        SoftGRPOError: Something would fail later.
    """
    files = config.recall.files
    for name in check_pool(config.recall.recallers, files):
        if name not in files and name in plugin_names():
            complete_settings(name, config.recall.settings.get(name, {}))
        elif name not in (*files, TEXT):
            _check_settings(name, config)
    embeds = TEXT in config.recall.recallers
    if embeds:
        with model_of_texts():
            check_reachable(config.text.model_name, config.text.max_length)
    needs_model = until in LANGUAGE_MODEL_STAGES
    if needs_model:
        check_reachable(config.policy.model_name, config.prompt.max_length, config.policy.frozen_layers)
    notes = _check_data(config)
    if needs_model or embeds:
        _check_device(config)
    return notes


def _check_settings(name: str, config: ExperimentConfig) -> None:
    """Checks the settings of a RecBole model; an error quotes the value that dataset and size use, where they have one."""
    for key, value in config.recall.settings_of(name).items():
        try:
            check_settings(name, {key: value})
        except RecallerError as error:
            usual = starting_point(config).recall.settings_of(name)
            if key not in usual:
                raise
            used = f"The default for {config.data.dataset} with size {config.policy.size} is {usual[key]!r}"
            raise RecallerError(error.received, error.rule, used, code=error.code) from error


def _check_data(config: ExperimentConfig) -> list[str]:
    corpus = read_corpus(config.data, config.seed)
    windows = make_windows(corpus, config.split)
    check_no_leak(corpus, windows)
    parts = cross_fit(windows, config.split, config.seed)
    check_parts(corpus, windows, parts)
    note_size(config, corpus, all_windows(windows, parts))
    if config.recall.files:
        from softgrpo.recallers.from_file import read_parts  # torch, for which other runs need not wait here

        for name, path in config.recall.files.items():
            for _ in read_parts(path, name, corpus, windows, config.recall.depth):  # its problems come at the end
                pass
    if corpus.num_items <= config.fusion.k:
        raise DataError(
            f"dataset '{config.data.dataset}' keeps {corpus.num_items} items",
            f"a list of fusion.k = {config.fusion.k} must be a choice among more items than that",
            "Lower data.k_core or fusion.k, or bring more data",
            code="DATA-023",
        )
    notes: list[str | None] = [usual_columns_note(config.data)]
    notes += [_cross_fit_note(windows, parts)] if parts else []
    if TEXT in config.recall.recallers:
        notes.append(few_texts_note(item_texts(config.data, config.text, corpus.items)))
    tied = tied_target_share(corpus, windows)
    if tied > TIED_SHARE_WORTH_A_NOTE and config.data.ties == "hash":
        notes.append(
            f"{tied:.0%} of the targets share their time with another item; their order is a seeded hash (data.ties)"
        )
    return [note for note in notes if note]


def _cross_fit_note(windows: Windows, parts: Sequence[Windows]) -> str:
    """Returns what `split.cross_fit` brings and what it costs."""
    policy, added = len(windows.of(Part.POLICY)), sum(map(len, parts))
    return (
        f"cross-fitting adds {added:,} windows to {policy:,} policy windows; every recaller is trained {1 + len(parts)} times "
        f"instead of once (split.cross_fit {len(parts)})"
    )


def _check_device(config: ExperimentConfig) -> None:
    check_gpus(config.train)
    if config.train.device == "cuda":
        import torch  # seconds that other runs need not wait for

        if not torch.cuda.is_available():
            raise ConfigError(
                "train.device = cuda", "torch finds no GPU here", "Use --train.device cpu, or auto", code="CONFIG-044"
            )
