"""softgrpo: learn, for each user, how much to trust each recaller of a recommender system.

The science lives here and imports neither prefect nor mlflow; `tasks` and `flows` wrap its functions. The names below are the
public face: `from softgrpo import SoftGRPOTrainer`. Each is imported from its own module when it is first asked for, so that
`import softgrpo` needs neither torch nor transformers. Modules of this package import each other directly and never from here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softgrpo.algorithm.batching import PromptRows
    from softgrpo.algorithm.trl_config import SoftGRPOConfig
    from softgrpo.algorithm.trl_trainer import SoftGRPOTrainer
    from softgrpo.config import ExperimentConfig, FusionConfig
    from softgrpo.errors import SoftGRPOError
    from softgrpo.pipeline.run import run_standalone
    from softgrpo.presets import resolve
    from softgrpo.ranking.fusion import fuse
    from softgrpo.ranking.metrics import ndcg
    from softgrpo.ranking.rewards import RankingReward
    from softgrpo.serving.pure_models import load_policy
    from softgrpo.serving.router import Router

__version__ = "0.1.0"
__all__ = [
    "ExperimentConfig",
    "FusionConfig",
    "PromptRows",
    "RankingReward",
    "Router",
    "SoftGRPOConfig",
    "SoftGRPOError",
    "SoftGRPOTrainer",
    "fuse",
    "load_policy",
    "ndcg",
    "resolve",
    "run_standalone",
]
HOMES = {
    "ExperimentConfig": "softgrpo.config",
    "FusionConfig": "softgrpo.config",
    "PromptRows": "softgrpo.algorithm.batching",
    "RankingReward": "softgrpo.ranking.rewards",
    "Router": "softgrpo.serving.router",
    "SoftGRPOConfig": "softgrpo.algorithm.trl_config",
    "SoftGRPOError": "softgrpo.errors",
    "SoftGRPOTrainer": "softgrpo.algorithm.trl_trainer",
    "fuse": "softgrpo.ranking.fusion",
    "load_policy": "softgrpo.serving.pure_models",
    "ndcg": "softgrpo.ranking.metrics",
    "resolve": "softgrpo.presets",
    "run_standalone": "softgrpo.pipeline.run",
}
"""Module of each public name, for `__getattr__`; the block above says the same to type checkers and editors."""


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for.

    Raises:
        AttributeError: There is no such name.
    """
    if name not in HOMES:
        raise AttributeError(f"module 'softgrpo' has no attribute '{name}'; public names: {', '.join(__all__)}")
    value = getattr(importlib.import_module(HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
