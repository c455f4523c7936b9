"""Which RecBole models can be recallers, and which settings they know; read from RecBole's files, without importing it."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from softgrpo.common.names import TEXT
from softgrpo.errors import RecallerError, nearest
from softgrpo.recallers.plugins import package_of, plugin_names

_FOLDERS = {"general": "general_recommender", "sequential": "sequential_recommender"}
_CLASS = re.compile(r"^class (\w+)\((?:\w*Recommender|DiffRec)\b", re.MULTILINE)
_FEATURES = "it reads item or user features, and recallers are trained on interactions alone"
_PRETRAINED = "it needs a model pretrained in a run of its own"
_TARGET = "it asks for the target item while it scores"
UNSUPPORTED = {
    "ConvNCF": _PRETRAINED,
    "DIEN": _FEATURES,
    "DIN": _FEATURES,
    "FDSA": _FEATURES,
    "GRU4RecCPR": _TARGET,
    "GRU4RecF": _FEATURES,
    "GRU4RecKG": _FEATURES,
    "KSR": _FEATURES,
    "NAIS": _PRETRAINED,
    "NCL": "it needs the package faiss",
    "RaCT": _PRETRAINED,
    "Random": "it draws new scores at every call, so that no list can be repeated",
    "S3Rec": _FEATURES,
    "SASRecCPR": _TARGET,
    "SASRecF": _FEATURES,
}
TRAINING_SETTINGS: dict[str, Any] = {
    "epochs": 300,
    "train_batch_size": 2048,
    "eval_batch_size": 4096,
    "learner": "adam",
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "clip_grad_norm": None,
    "train_neg_sample_args": None,
    "eval_step": 1,
    "stopping_step": 10,
    "MAX_ITEM_LIST_LENGTH": 50,
    "require_pow": False,
    "enable_amp": False,
    "enable_scaler": False,
    "transform": None,
    "shuffle": True,
    "use_gpu": True,
    "worker": 0,
}
_AT_LEAST_ONE = {
    "epochs",
    "train_batch_size",
    "eval_batch_size",
    "eval_step",
    "MAX_ITEM_LIST_LENGTH",
    "embedding_size",
    "hidden_size",
    "inner_size",
    "n_layers",
    "num_layers",
    "n_heads",
    "k",
}
_CHOICES = {
    "learner": ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"),  # others become Adam with a warning
    "loss_type": ("BPR", "CE"),
    "hidden_act": ("gelu", "relu", "swish", "tanh", "sigmoid"),
    "transform": ("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq"),
}
_LOSSES = {"CDAE": ("BCE", "MSE"), "CORE": ("CE",), "FPMC": ("BPR",), "SINE": ("BPR", "CE", "NLL")}
"""The recallers with other losses than most."""
_CLIPPING: dict[str, tuple[type, ...]] = {
    "max_norm": (float, int),
    "norm_type": (float, int),
    "error_if_nonfinite": (bool,),
}
"""What torch's `clip_grad_norm_` takes beside the weights, with its types."""
_NEGATIVES: dict[str, Any] = {
    "distribution": "uniform",
    "sample_num": 1,
    "alpha": 1.0,
    "dynamic": False,
    "candidate_num": 0,
}
"""What RecBole reads of `train_neg_sample_args`, with its defaults; it takes any other name in silence."""
_DISTRIBUTIONS = ("uniform", "popularity")
_SAFE_TEXT = re.compile(r"[\w.@+\-\[\], ]*")


def _recbole_folder() -> Path:
    spec = importlib.util.find_spec("recbole")
    if spec is None or spec.origin is None:
        raise RecallerError(
            "recbole is not installed",
            "Recallers are RecBole models",
            "Run: pip install --no-deps recbole==1.2.1",
            code="RECALLER-009",
        )
    return Path(spec.origin).parent


@cache
def _all_models() -> dict[str, str]:
    return {
        name: kind
        for kind, folder in _FOLDERS.items()
        for path in sorted((_recbole_folder() / "model" / folder).glob("*.py"))
        for name in _CLASS.findall(path.read_text(encoding="utf-8"))
    }


def known_recallers() -> dict[str, str]:
    """Returns the usable RecBole models: name -> `general` or `sequential`.

    Raises:
        RecallerError: RecBole is not installed.
    """
    return {name: kind for name, kind in _all_models().items() if name not in UNSUPPORTED}


def check_recallers(names: Iterable[str], others: Collection[str] = ()) -> tuple[str, ...]:
    """Returns the names in RecBole's spelling; upper and lower case may be mixed.

    Args:
        names: RecBole models.
        others: Further names that an unknown one may have meant.

    Raises:
        RecallerError: A name is unknown (with the nearest one), not usable here (with the reason), or given twice.
    """
    known = known_recallers()
    by_lower = {name.lower(): name for name in known}
    reasons = {name.lower(): reason for name, reason in UNSUPPORTED.items()}
    spelled: list[str] = []
    for name in names:
        if name.lower() in reasons:
            raise RecallerError(
                f"Recaller '{name}'",
                f"RecBole has it, but {reasons[name.lower()]}",
                "Take another one",
                code="RECALLER-010",
            )
        if name.lower() not in by_lower:
            rule = "A recaller is a general or sequential RecBole model, by name"
            raise RecallerError(f"Recaller '{name}'", rule, nearest(name, {*known, *others}), code="RECALLER-011")
        spelled.append(by_lower[name.lower()])
    if len(set(spelled)) < len(spelled):
        raise RecallerError(
            f"Recallers {', '.join(spelled)}",
            "A pool holds each recaller once",
            "Drop the repeated name",
            code="RECALLER-012",
        )
    return tuple(spelled)


def check_pool(names: Iterable[str], files: Collection[str] = ()) -> tuple[str, ...]:
    """Returns the names of a pool; upper and lower case may be mixed.

    Args:
        names: RecBole models, `Text`, plug-ins and names of files.
        files: The names of the recallers that come from files.

    Raises:
        RecallerError: A name is unknown, not usable here, or given twice; or a file has the name of a RecBole model, `Text` or a
            plug-in; or a plug-in of the pool has the name of a RecBole model or `Text`.
    """
    names, plugins = list(names), plugin_names()
    taken = {name.lower(): f"RecBole has a model {name}" for name in (*known_recallers(), *UNSUPPORTED)}
    taken[TEXT.lower()] = f"{TEXT} is the recaller by item texts"
    asked = {name.lower() for name in names}
    for name in plugins:
        if name.lower() in taken and name.lower() in asked:
            raise RecallerError(
                f"The package {package_of(name)} has a recaller '{name}'",
                f"{taken[name.lower()]}, and a table must tell the two apart",
                "Change the name of its entry point, or uninstall the package",
                code="RECALLER-032",
            )
    taken |= {name.lower(): f"an installed plug-in is called {name}" for name in plugins}
    for name in files:
        if name.lower() in taken:
            raise RecallerError(
                f"recall.files names a recaller '{name}'",
                f"{taken[name.lower()]}, and a table must tell the two apart",
                f"Give the file another name, such as My{name}",
                code="RECALLER-002",
            )
    by_lower = {name.lower(): name for name in (*files, TEXT, *plugins)}
    ours = iter(check_recallers((name for name in names if name.lower() not in by_lower), by_lower.values()))
    pool = tuple(by_lower[name.lower()] if name.lower() in by_lower else next(ours) for name in names)
    if len(set(pool)) < len(pool):
        raise RecallerError(
            f"Recallers {', '.join(pool)}",
            "A pool holds each recaller once",
            "Drop the repeated name",
            code="RECALLER-003",
        )
    return pool


def known_settings(name: str) -> dict[str, Any]:
    """Returns the settings that a recaller knows, with RecBole's defaults: the model's own and those of training."""
    path = _recbole_folder() / "properties" / "model" / f"{name}.yaml"
    own = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return {**TRAINING_SETTINGS, **(own or {})}


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Checks the names and kinds of a recaller's settings; RecBole itself accepts any name in silence.

    Args:
        name: The recaller, in RecBole's spelling.
        settings: Its settings.

    Raises:
        RecallerError: A setting is unknown, of the wrong kind, out of range, or a text with characters that RecBole
            could evaluate as code.
    """
    known = known_settings(name)
    for key, value in settings.items():
        if key not in known:
            rule = f"It is not a setting of {name} that may be chosen here"
            raise RecallerError(f"Setting '{key}' of recaller {name}", rule, nearest(key, known), code="RECALLER-013")
        problem = _problem(name, key, value, known[key])
        if problem:
            received = f"Setting {key} = {value!r} of recaller {name}"
            raise RecallerError(received, problem, f"RecBole's default is {known[key]!r}", code="RECALLER-014")


def _problem(name: str, key: str, value: Any, default: Any) -> str:
    """Returns what is wrong with a value, "" where nothing is."""
    if isinstance(value, str) and not _SAFE_TEXT.fullmatch(value):
        return "RecBole evaluates texts, so only letters, digits and . _ - + @ [ ] and commas are accepted"
    if value is None and default is None:
        return ""
    choices = _LOSSES.get(name, _CHOICES[key]) if key == "loss_type" else _CHOICES.get(key)
    if choices and value not in choices:
        return f"It must be one of {', '.join(choices)}"
    if key == "clip_grad_norm":
        return _clipping_problem(value)
    if key == "train_neg_sample_args":
        return _negatives_problem(value)
    if isinstance(default, bool) and not isinstance(value, bool):
        return "It must be true or false"
    wants_number = isinstance(default, int | float) and not isinstance(default, bool)
    return _number_problem(key, value) if wants_number or key in _AT_LEAST_ONE else ""


def _clipping_problem(value: Any) -> str:
    """Returns what is wrong with the arguments of torch's `clip_grad_norm_`."""
    if not isinstance(value, Mapping) or "max_norm" not in value or not set(value) <= set(_CLIPPING):
        return f"It must be null or a mapping such as {{max_norm: 5}}; what it may name: {', '.join(_CLIPPING)}"
    for name, argument in value.items():
        if type(argument) not in _CLIPPING[name]:
            return f"Its {name} must be {'true or false' if bool in _CLIPPING[name] else 'a number'}"
        if type(argument) is not bool and not argument > 0:
            return f"Its {name} must be above 0"
    return ""


def _negatives_problem(value: Any) -> str:
    """Returns what is wrong with the way negative items are drawn."""
    if not isinstance(value, Mapping) or not set(value) <= set(_NEGATIVES):
        return f"It must be null or a mapping such as {{sample_num: 4}}; what it may name: {', '.join(_NEGATIVES)}"
    arguments = {**_NEGATIVES, **value}
    if arguments["distribution"] not in _DISTRIBUTIONS:
        return f"Its distribution must be one of {', '.join(_DISTRIBUTIONS)}"
    if type(arguments["dynamic"]) is not bool:
        return "Its dynamic must be true or false"
    for name, least in (("sample_num", 1), ("candidate_num", int(arguments["dynamic"]))):
        if type(arguments[name]) is not int or arguments[name] < least:
            return f"Its {name} must be a whole number of at least {least}"
    if type(arguments["alpha"]) not in (int, float) or not 0 <= arguments["alpha"] < math.inf:
        return "Its alpha must be a number of at least 0"
    return ""


def _number_problem(key: str, value: Any) -> str:
    """Returns what is wrong with the value of a setting that is a number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if key in _AT_LEAST_ONE and not (is_number and isinstance(value, int) and value >= 1):
        return "It must be a whole number of at least 1"
    if key == "learning_rate" and not (is_number and value > 0):
        return "It must be a number above 0"
    if key == "weight_decay" and not (is_number and value >= 0):
        return "It must be a number of at least 0"
    return "" if is_number else "It must be a number"
