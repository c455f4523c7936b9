"""The one experiment configuration. Every setting is described here, by the text below it, and nowhere else.

A configuration is resolved as defaults < dataset preset < size preset < debug preset < what the user says
(`softgrpo.presets.resolve`), then frozen. Stage keys are digests of its sections (`softgrpo.pipeline.keys`).
"""

from __future__ import annotations

from softgrpo.config.experiment import TABLE_KS, Baseline, EvaluationConfig, ExperimentConfig, LimitsConfig
from softgrpo.config.features import BlockName, FeaturesConfig
from softgrpo.config.fusion import FusionChoice, FusionConfig, FusionMethod, MergeMethod, Normalisation
from softgrpo.config.learning import GRPOConfig, LabelConfig, PolicyConfig, SFTConfig, TrainConfig
from softgrpo.config.lists import DataConfig, PromptConfig, RecallConfig, SplitConfig, TextConfig
from softgrpo.config.section import Section

__all__ = [
    "TABLE_KS",
    "Baseline",
    "BlockName",
    "DataConfig",
    "EvaluationConfig",
    "ExperimentConfig",
    "FeaturesConfig",
    "FusionChoice",
    "FusionConfig",
    "FusionMethod",
    "GRPOConfig",
    "LabelConfig",
    "LimitsConfig",
    "MergeMethod",
    "Normalisation",
    "PolicyConfig",
    "PromptConfig",
    "RecallConfig",
    "SFTConfig",
    "Section",
    "SplitConfig",
    "TextConfig",
    "TrainConfig",
]
