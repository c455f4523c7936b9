"""The registry knows RecBole's models and settings without importing RecBole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from softgrpo.errors import RecallerError
from softgrpo.recallers.registry import UNSUPPORTED, check_recallers, check_settings, known_recallers, known_settings

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
        (["BPR", "SASRek"], "Did you mean 'SASRec'"),
        (["DeepFM"], "A recaller is a general or sequential RecBole model"),
        (["s3rec"], "item or user features"),
        (["Random"], "draws new scores"),
        (["BPR", "bpr"], "each recaller once"),
        ([""], "by name"),
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
        ("BPR", {"embedding_size": "big"}, "must be a number"),
        ("BPR", {"shuffle": "yes"}, "true or false"),
        ("BPR", {"learner": "__import__('os').getcwd()"}, "RecBole evaluates texts"),
    ],
)
def test_wrong_settings(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecallerError, match=message):
        check_settings(name, settings)
