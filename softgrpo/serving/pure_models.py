"""`<output>/pure_models`: finished policies under names that people can read, and their loader.

    pure_models/<dataset>/<model>_pure_<sft|grpo>_<recaller>_<recaller>  ->  ../../stages/<sft|grpo>-<key>

The store of stages knows a policy by a digest. Here each is a relative link into that store, so that the output folder can be
moved. A name stands for what was made last with that dataset, model and pool; earlier ones stay in the store. Policies that learnt
from a sample of the users, as those of debug runs, have a folder of their own, `<dataset>_<N>_users`.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softgrpo.common.files import make_private
from softgrpo.config import ExperimentConfig, PolicyConfig
from softgrpo.errors import StoreError
from softgrpo.stages.contract import POLICY_STAGES, Node

if TYPE_CHECKING:
    from softgrpo.policy.model import Policy

FOLDER = "pure_models"
HIDING = "._~"
"""What a name must not begin with: it would be hidden, or strange."""
NAME_BYTES = 255
"""What file systems take for one name."""


def model_path(config: ExperimentConfig, stage: str) -> Path:
    """Returns where a policy is found, relative to the folder of all policies.

    Args:
        config: The resolved configuration.
        stage: sft or grpo.

    Returns:
        `<dataset>/<model_name>_pure_<stage>_<recallers>`, of a sample of N users `<dataset>_<N>_users/...`; a model's name is that
        of `visible_name`, and of one that is too long for the file system the end stays.
    """
    behind = f"_pure_{stage}_{'_'.join(config.recall.recallers)}".replace("/", "_")
    model = visible_name(config.policy.model_name).encode()[-(NAME_BYTES - len(behind)) :]
    users = f"_{config.data.max_users}_users" if config.data.max_users is not None else ""
    return Path(config.data.dataset.replace("/", "_") + users) / (model.decode(errors="ignore").lstrip(HIDING) + behind)


def visible_name(model_name: str) -> str:
    """Returns a model's name as one part of a file name that no system hides.

    Args:
        model_name: See `PolicyConfig.model_name`.

    Returns:
        The name with `_` for each `/`. Of a path `.`, `..` and `~` are left out at its beginning, and a path that consists of
        nothing else gets the name of the folder that it leads to: `./mine`, `../mine` and `/mine` are all `mine`.
    """
    plain = os.path.normpath(model_name).replace("/", "_").lstrip(HIDING)
    if plain:
        return plain
    return Path(model_name).expanduser().resolve().name.lstrip(HIDING) or "model"


def show_model(output: Path, config: ExperimentConfig, node: Node, payload: Path) -> None:
    """Lets the name of a finished policy lead to it; a node that makes no policy changes nothing.

    Args:
        output: Folder of all that is written.
        config: The resolved configuration.
        node: The finished node.
        payload: Its folder in the store, below `output`.

    Raises:
        StoreError: Something that is no link has the name.
    """
    if node.stage.name not in POLICY_STAGES:
        return
    link = output / FOLDER / model_path(config, node.stage.name)
    make_private(link.parent)
    aside = link.with_name(f".{uuid.uuid4().hex}")  # it replaces the old one in one step: a reader finds either
    try:
        aside.symlink_to(os.path.relpath(payload.resolve(), link.parent.resolve()), target_is_directory=True)
        aside.replace(link)
    except (IsADirectoryError, NotADirectoryError) as error:
        raise StoreError(
            f"'{link}'",
            "It is made as a link to the finished policy, and a folder is there",
            "Move that folder away",
            code="STORE-024",
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def load_policy(folder: Path | str) -> Policy:
    """Loads a finished policy, prior and adapters included, ready to be asked (dropout is off).

    Args:
        folder: Of the policy: a link in `pure_models`, the stage's folder, or its folder `merged`.

    Raises:
        PolicyError: The folder holds no policy, or adapters whose base model is not here.
    """
    # torch and transformers take seconds to import, and the pipeline's plan needs neither
    from peft import LoraConfig

    from softgrpo.policy.card import load_card
    from softgrpo.policy.model import load_policy as load_with_settings

    place = Path(folder)
    card = load_card(place)
    settings: dict[str, Any] = {"model_name": card.model_name}
    if card.adapter == "lora":
        stored = LoraConfig.from_pretrained(str(place))
        settings |= {"lora_r": stored.r, "lora_alpha": stored.lora_alpha}
    policy = load_with_settings(place, PolicyConfig(**settings))
    policy.model.eval()
    return policy


def load_model(folder: Path | str) -> Policy:
    """Loads a finished policy: `load_policy` under the name that the models' descriptions in MLflow give."""
    return load_policy(folder)
