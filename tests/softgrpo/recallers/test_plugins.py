"""Recallers of other libraries: how installed ones are found, what is refused, what is stored, and what changes a key."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from softgrpo.errors import RecallerError, StoreError
from softgrpo.pipeline.keys import stage_key
from softgrpo.pipeline.plan import plan
from softgrpo.pipeline.preflight import preflight
from softgrpo.presets import resolve
from softgrpo.recallers import plugins
from softgrpo.recallers.fitted_plugin import PluginRecaller, training_part
from softgrpo.recallers.plugins import complete_settings, load_class, plugin_identity, plugin_names
from softgrpo.recallers.registry import check_pool
from tests.softgrpo.recallers.cases import ITEMS, cycles
from tests.support.plugin_package import documented_plugin, install

CODE = documented_plugin()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which packages are found."""
    monkeypatch.syspath_prepend(tmp_path)
    plugins._installed.cache_clear()
    yield tmp_path
    plugins._installed.cache_clear()
    for name in ("popular_recaller", "other_recaller"):
        sys.modules.pop(name, None)


def again() -> None:
    """Lets packages be found that were changed since."""
    plugins._installed.cache_clear()
    sys.modules.pop("popular_recaller", None)


def test_an_installed_plug_in_is_a_recaller_like_any_other(packages: Path) -> None:
    install(packages, CODE)
    assert "Popular" in plugin_names()
    assert check_pool(["popular", "BPR", "TEXT"]) == ("Popular", "BPR", "Text")
    overrides = {"recall.recallers": ["POPULAR", "EASE"], "recall.settings.Popular.power": 0.5}
    config = resolve("ml-100k", "tiny", overrides=overrides)
    assert config.recall.recallers == ("Popular", "EASE")
    (node,) = (node for node in plan(config, "recall") if node.variant == "Popular")
    assert (node.name, node.upstream, node.stage.module) == (
        "recall-Popular",
        ("split",),
        "softgrpo.stages.recall_plugin",
    )
    assert "popular_recaller" not in sys.modules, "nothing is imported before it is used"
    preflight(config, "recall")
    assert "popular_recaller" in sys.modules


def test_names_are_found_without_importing_a_library() -> None:
    code = (
        "import sys; from softgrpo.recallers.plugins import *; assert 'ALS' in plugin_names(); plugin_identity('ALS');"
        "assert not {'implicit', 'scipy', 'torch', 'recbole'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_changes_the_key_of_its_stage(packages: Path) -> None:
    def key(**settings: object) -> str:
        again()
        overrides = {"recall.recallers": ["Popular", "EASE"], "recall.settings": {}}
        overrides |= {f"recall.settings.{name}.power": value for name, value in settings.items()}
        config = resolve("ml-100k", "tiny", overrides=overrides)
        return next(stage_key(node, config, {"split": "same"}) for node in plan(config, "recall") if "Pop" in node.name)

    changes: list[Callable[[], None]] = [
        lambda: install(packages, CODE),
        lambda: install(packages, CODE, version="1.1"),
        lambda: install(packages, CODE + "\nMORE = 1\n"),
        lambda: install(packages, CODE, requires=("numpy>=1", "absent; extra == 'more'")),
    ]
    found = []
    for change in changes:
        change()
        found.append(key())
        assert key() == found[-1]
    assert len({*found, key(Popular=2.0)}) == 5


REFUSED = {
    "RECALLER-020": ["two", "2 packages have it: other-recaller, popular-recaller"],
    "RECALLER-021": ["lower", "begins with a capital letter"],
    "RECALLER-022": ["gone", "is not there"],
    "RECALLER-023": ["library", "without the package no-such-library"],
    "RECALLER-024": ["broken", "ModuleNotFoundError"],
    "RECALLER-025": ["partial", "lacks save, load"],
    "RECALLER-032": ["taken", "RecBole has a model BPR"],
}


@pytest.mark.parametrize("code", REFUSED)
def test_a_wrong_plug_in_is_refused_before_anything_is_trained(code: str, packages: Path) -> None:
    case, says = REFUSED[code]
    name = {"lower": "popular", "taken": "BPR"}.get(case, "Popular")
    source = {"broken": "import no_such_module\n", "partial": CODE.split("    def save")[0]}.get(case, CODE)
    install(packages, source, name=name, requires=("no-such-library>=2",) if case == "library" else ())
    if case == "two":
        install(packages, CODE, package="other-recaller", entry="other_recaller:Popular")
    if case == "gone":
        (packages / "popular_recaller.py").unlink()
    overrides = {"recall.recallers": [name, "EASE"], "recall.settings": {}}
    with pytest.raises(RecallerError) as caught:
        preflight(resolve("ml-100k", "tiny", overrides=overrides), "recall")
    assert caught.value.code == code and says in str(caught.value)


def test_an_unknown_name_gets_the_nearest_plug_in(packages: Path) -> None:
    install(packages, CODE, name="Neighbourly")
    with pytest.raises(RecallerError, match="Did you mean 'Neighbourly'"):
        check_pool(["Nieghbourly", "BPR"])
    with pytest.raises(RecallerError, match="n installed plug-in is called Neighbourly"):
        check_pool(["BPR"], ["neighbourly"])


@pytest.mark.parametrize(
    ("settings", "code"),
    [({"powr": 1.0}, "026"), ({"power": "high"}, "027"), ({"power": True}, "027"), ({"power": float("nan")}, "027")],
)
def test_a_wrong_setting_is_refused(settings: dict[str, object], code: str, packages: Path) -> None:
    install(packages, CODE)
    with pytest.raises(RecallerError) as caught:
        complete_settings("Popular", settings)
    assert caught.value.code == f"RECALLER-{code}"
    assert complete_settings("Popular", {"power": 2}) == {"power": 2}


def test_the_documented_plug_in_trains_stores_and_scores(packages: Path, tmp_path: Path) -> None:
    install(packages, CODE)
    corpus, windows = cycles()
    interactions = training_part(corpus, windows)
    counts = np.bincount(interactions.items, minlength=ITEMS + 1)
    assert counts.sum() == windows.train_end.sum() and counts[ITEMS] == 0
    recaller = PluginRecaller.fit("Popular", interactions, {"power": 2.0}, 1)
    recaller.save(tmp_path / "model")
    loaded = PluginRecaller.load(tmp_path / "model")
    assert np.array_equal(loaded.trained, counts > 0)
    scores = loaded.score(np.array([0, 5]), [corpus.item[:3], corpus.item[:0]])
    assert torch.equal(scores, torch.tensor([[float(n**2) if n else -torch.inf for n in counts]] * 2))
    install(packages, CODE, version="2.0")
    again()
    with pytest.raises(StoreError, match=r"version 1\.0"):
        PluginRecaller.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("scores", "code"),
    [
        ("np.tile(self.scores, (1, 1))", "RECALLER-030"),
        ("np.full((len(users), len(self.scores)), np.nan)", "RECALLER-031"),
        ("np.full((len(users), len(self.scores)), np.inf)", "RECALLER-031"),
    ],
)
def test_scores_are_checked(scores: str, code: str, packages: Path) -> None:
    install(packages, CODE.replace("np.tile(self.scores, (len(users), 1))", scores))
    corpus, windows = cycles()
    recaller = PluginRecaller.fit("Popular", training_part(corpus, windows), {}, 1)
    with pytest.raises(RecallerError) as caught:
        recaller.score(np.array([0, 1]), [corpus.item[:1]] * 2)
    assert caught.value.code == code


def test_a_plug_in_cannot_change_a_history(packages: Path) -> None:
    install(packages, CODE.replace("return np.tile", "histories[0][0] = 0; return np.tile"))
    corpus, windows = cycles()
    recaller = PluginRecaller.fit("Popular", training_part(corpus, windows), {}, 1)
    with pytest.raises(ValueError, match="read-only"):
        recaller.score(np.array([0]), [corpus.item[:1]])


def test_what_the_library_refuses_is_said(packages: Path) -> None:
    install(packages, CODE.replace("counts = ", "raise ValueError('too sparse'); counts = "))
    corpus, windows = cycles()
    with pytest.raises(RecallerError, match=r"refuses to train: ValueError: too sparse"):
        PluginRecaller.fit("Popular", training_part(corpus, windows), {}, 1)
    assert load_class("Popular") and plugin_identity("Popular")["package"] == "popular-recaller"
