"""The numbers that every window has: shape and overlap of the lists."""

from __future__ import annotations

from softgrpo.policy.blocks.block import Block, Known, Numbers


def _compute(known: Known) -> Numbers:
    features = known.features
    return {
        "score strength": features.strength,
        "lead of the first": features.peak,
        "overlap with others": features.overlap,
    }


BASE = Block("base", _compute, {})
"""Prompts tell these in their own way, each by a switch of the section `prompt`."""
