"""The registry knows RecBole's models and settings without importing RecBole."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pandas as pd
import pytest

from softgrpo.errors import RecallerError, TrainingError
from softgrpo.recallers.registry import (
    _CHOICES,
    _CLIPPING,
    _LOSSES,
    UNSUPPORTED,
    _recbole_folder,
    check_recallers,
    check_settings,
    known_recallers,
    known_settings,
)

GENERAL = {
    "BPR",
    "Pop",
    "ItemKNN",
    "EASE",
    "SLIMElastic",
    "LightGCN",
    "NeuMF",
    "MultiVAE",
    "RecVAE",
    "SimpleX",
    "LDiffRec",
}
SEQUENTIAL = {"SASRec", "GRU4Rec", "FPMC", "BERT4Rec", "CORE", "NARM"}


def test_known_recallers_have_their_kind() -> None:
    known = known_recallers()
    assert {name for name, kind in known.items() if kind == "general"} >= GENERAL
    assert {name for name, kind in known.items() if kind == "sequential"} >= SEQUENTIAL
    assert set(known.values()) == {"general", "sequential"}


def test_context_models_knowledge_models_layers_and_unsupported_models_are_left_out() -> None:
    strangers = {"DeepFM", "KGAT", "xgboost", "GeneralRecommender", "TransNet", "ComputeSimilarity"} | set(UNSUPPORTED)
    assert not strangers & set(known_recallers())


def test_the_registry_does_not_import_recbole() -> None:
    code = "import sys; from softgrpo.recallers.registry import *; check_recallers(['BPR']); assert 'recbole' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_spelling_is_made_canonical_in_the_given_order() -> None:
    assert check_recallers(["sasrec", "ITEMKNN", "Bpr"]) == ("SASRec", "ItemKNN", "BPR")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["BPR", "SASRek"], r"'SASRek'.*'SASRec'.*\[RECALLER-011\]"),
        (["DeepFM"], r"'DeepFM'.*\[RECALLER-011\]"),
        (["s3rec"], r"'s3rec'.*features.*\[RECALLER-010\]"),
        (["Random"], r"'Random'.*scores.*\[RECALLER-010\]"),
        (["BPR", "bpr"], r"BPR, BPR.*\[RECALLER-012\]"),
        ([""], r"''.*\[RECALLER-011\]"),
    ],
)
def test_wrong_names(names: list[str], message: str) -> None:
    with pytest.raises(RecallerError, match=message):
        check_recallers(names)


def test_own_settings_and_those_of_training_are_known() -> None:
    settings = known_settings("SASRec")
    assert settings["n_layers"] == 2  # SASRec.yaml
    assert settings["epochs"] == 300  # RecBole's default
    check_settings("SASRec", {"n_layers": 1, "epochs": 3, "loss_type": "CE", "MAX_ITEM_LIST_LENGTH": 20})
    check_settings("NeuMF", {"mlp_hidden_size": [16, 8], "use_gpu": False})


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("SASRec", {"n_layer": 1}, "Did you mean 'n_layers'"),
        ("BPR", {"n_layers": 1}, "not a setting of BPR"),
        ("BPR", {"data_path": "x"}, "not a setting of BPR"),
        ("BPR", {"eval_args": {}}, "not a setting of BPR"),
        ("BPR", {"epochs": 0}, "at least 1"),
        ("BPR", {"epochs": True}, "at least 1"),
        ("BPR", {"learning_rate": -1.0}, "above 0"),
        ("BPR", {"learning_rate": "fast"}, "above 0"),
        ("BPR", {"embedding_size": "big"}, "at least 1"),
        ("BPR", {"embedding_size": 0}, "whole number of at least 1"),
        ("BPR", {"embedding_size": 8.0}, "whole number"),
        ("BPR", {"train_batch_size": -1}, "at least 1"),
        ("BPR", {"eval_step": 0}, "at least 1"),
        ("GRU4Rec", {"hidden_size": 0}, "at least 1"),
        ("SASRec", {"n_layers": -1}, "at least 1"),
        ("SASRec", {"n_heads": 0}, "at least 1"),
        ("SASRec", {"inner_size": 0}, "at least 1"),
        ("SASRec", {"MAX_ITEM_LIST_LENGTH": 1.5}, "at least 1"),
        ("ItemKNN", {"k": 0}, "at least 1"),
        ("ItemKNN", {"shrink": float("nan")}, "must be a number"),
        ("BPR", {"learner": "adamm"}, "one of adam, adamw, sgd, adagrad, rmsprop, sparse_adam"),
        ("BPR", {"learner": 1}, "one of adam"),
        ("SASRec", {"loss_type": "ce"}, r"one of BPR, CE\."),
        ("SASRec", {"hidden_act": "elu"}, "one of gelu, relu, swish, tanh, sigmoid"),
        ("CDAE", {"loss_type": "CE"}, "one of BCE, MSE"),
        ("CORE", {"loss_type": "BPR"}, "one of CE"),
        ("BPR", {"weight_decay": -0.1}, "at least 0"),
        ("BPR", {"weight_decay": float("inf")}, "at least 0"),
        ("BPR", {"clip_grad_norm": 5}, "null or a mapping"),
        ("BPR", {"clip_grad_norm": {}}, "null or a mapping such as"),
        ("BPR", {"clip_grad_norm": {"norm_type": 2}}, "null or a mapping such as"),
        ("BPR", {"clip_grad_norm": {"max_norm": 5, "maxnorm": 5}}, "may name: max_norm, norm_type, error_if_nonfinite"),
        ("BPR", {"clip_grad_norm": {"max_norm": 0}}, "max_norm must be above 0"),
        ("BPR", {"clip_grad_norm": {"max_norm": float("nan")}}, "max_norm must be above 0"),
        ("BPR", {"clip_grad_norm": {"max_norm": True}}, "max_norm must be a number"),
        ("BPR", {"clip_grad_norm": {"max_norm": 5, "norm_type": "2"}}, "norm_type must be a number"),
        ("BPR", {"clip_grad_norm": {"max_norm": 5, "error_if_nonfinite": 1}}, "must be true or false"),
        ("BPR", {"shuffle": "yes"}, "true or false"),
        ("BPR", {"learner": "__import__('os').getcwd()"}, "RecBole evaluates texts"),
    ],
)
def test_wrong_settings(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecallerError, match=message):
        check_settings(name, settings)


def test_recboles_own_defaults_are_accepted() -> None:
    for name in known_recallers():
        defaults = known_settings(name)
        numbers_and_words = {key: value for key, value in defaults.items() if isinstance(value, int | float | str)}
        check_settings(name, {key: value for key, value in numbers_and_words.items() if "(" not in str(value)})


def test_other_values_that_recbole_accepts() -> None:
    check_settings("BPR", {"learner": "sgd", "weight_decay": 0, "clip_grad_norm": {"max_norm": 5}, "eval_step": 2})
    check_settings("BPR", {"clip_grad_norm": None})
    clipping = {"max_norm": 0.5, "norm_type": float("inf"), "error_if_nonfinite": False}
    check_settings("BPR", {"clip_grad_norm": clipping})
    check_settings("CDAE", {"loss_type": "MSE"})
    check_settings("SINE", {"loss_type": "NLL"})
    check_settings("SASRec", {"loss_type": "BPR", "hidden_act": "swish"})


def test_the_names_of_clipping_are_those_of_torch() -> None:
    import torch

    assert set(_CLIPPING) <= set(inspect.signature(torch.nn.utils.clip_grad_norm_).parameters)


@pytest.mark.parametrize("name", sorted({*_LOSSES, "SASRec"}))
def test_the_losses_are_those_of_recboles_code(name: str) -> None:
    folder = _recbole_folder() / "model" / f"{known_recallers()[name]}_recommender"
    code = (folder / f"{name.lower()}.py").read_text(encoding="utf-8")
    rule = re.search(r"loss_type.* in \[([^]]*)\]!?\"\)", code)
    assert rule is not None
    assert set(re.findall(r"[A-Z]+", rule[1])) == set(_LOSSES.get(name, _CHOICES["loss_type"]))


def test_the_learners_and_activations_are_those_of_recboles_code() -> None:
    trainer = (_recbole_folder() / "trainer" / "trainer.py").read_text(encoding="utf-8")
    assert set(re.findall(r'learner\.lower\(\) == "(\w+)"', trainer)) == set(_CHOICES["learner"])
    layers = (_recbole_folder() / "model" / "layers.py").read_text(encoding="utf-8")
    table = layers.split("ACT2FN = {")[1].split("}")[0]
    assert set(re.findall(r'"(\w+)":', table)) == set(_CHOICES["hidden_act"])


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), IndexError("x"), AttributeError("x"), ZeroDivisionError("x"), KeyError("x")]
)
def test_what_recbole_fails_with_is_a_refusal(error: Exception) -> None:
    from softgrpo.recallers.recbole_adapter import _refusals_of
    from softgrpo.recallers.recbole_model import Recipe

    recipe = Recipe("BPR", {"embedding_size": 8}, 1, None, pd.DataFrame())
    with pytest.raises(RecallerError, match=f"refuses to train BPR: {type(error).__name__}: "), _refusals_of(recipe):
        raise error


@pytest.mark.parametrize("error", [TrainingError("a", "b", "c", code="TRAINING-000"), KeyboardInterrupt()])
def test_what_is_no_refusal_passes(error: BaseException) -> None:
    from softgrpo.recallers.recbole_adapter import _refusals_of
    from softgrpo.recallers.recbole_model import Recipe

    with pytest.raises(type(error)) as caught, _refusals_of(Recipe("BPR", {}, 1, None, pd.DataFrame())):
        raise error
    assert caught.value is error
