"""A model for asking on a CPU gives the logits of the one that it was made of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from softgrpo.algorithm.batching import PromptCollator, PromptRows, predict_logits
from softgrpo.config import PolicyConfig
from softgrpo.policy import fast_cpu
from softgrpo.policy.fast_cpu import OneDnnLinear, for_asking
from softgrpo.policy.model import create_policy
from softgrpo.policy.number_scale import NumberScale
from tests.support.toy_policy import save_base, toy_decoder, toy_encoder, toy_tokenizer

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")  # type: ignore[no-untyped-call]
RECALLERS = ("Left", "Middle", "Right")
SCALE = NumberScale(("x", "Left: y"), np.ones(2), np.ones(2))
PROMPTS = [[3], [4, 6, 7, 8, 9], [5, 10, 11], [3, 3, 3, 3, 3, 3, 3, 3]]


def linear(module: nn.Module, kind: type[nn.Module]) -> set[str]:
    return {name for name, each in module.named_modules() if type(each) is kind}


@pytest.mark.parametrize(
    ("base", "settings", "layers"),
    [
        (toy_encoder, {}, 7),  # query, key, value, output, intermediate, output, pooler
        (toy_decoder, {}, 14),  # of two layers query, key, value, output, gate, up, down
        (toy_encoder, {"numbers": "head"}, 7),
        (toy_encoder, {"numbers": "tokens", "prior": "gate"}, 7),
        (toy_decoder, {"adapter": "lora"}, 0),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_logits_are_equal(
    base: Callable[[], nn.Module],
    settings: dict[str, Any],
    layers: int,
    batch_size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fast_cpu, "LEAST_WEIGHTS", 1)
    name = save_base(tmp_path / "base", base(), toy_tokenizer())
    policy = create_policy(PolicyConfig(model_name=name, **settings), RECALLERS, 32, np.full(3, 1 / 3), 3, SCALE)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # a new head gives zeros
        for value in policy.model.parameters():
            value += 0.3 * torch.randn(value.shape, generator=generator)
    columns = (
        {"numbers": np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)} if "numbers" in settings else {}
    )
    if "prior" in settings:
        columns["log_prior"] = np.log(np.full((4, 3), 1 / 3, np.float32))

    def logits(model: nn.Module) -> torch.Tensor:
        return predict_logits(
            model, PromptRows(PROMPTS, columns), PromptCollator(policy.tokenizer), batch_size, False, "t"
        )

    expected = logits(policy.model.eval())
    fast = for_asking(policy.model)
    assert len(linear(fast, OneDnnLinear)) == layers
    torch.testing.assert_close(logits(fast), expected, rtol=1e-6, atol=1e-6)
    assert expected.std(0).min() > 1e-3


def test_small_layers_and_other_types_stay(tmp_path: Path) -> None:
    """All layers of the toy are small, and half precision is another kind of model."""
    model = toy_encoder().eval()
    assert linear(for_asking(copy.deepcopy(model)), OneDnnLinear) == set()
    large = nn.Sequential(nn.Linear(128, 128), nn.Linear(128, 3)).eval()
    assert linear(for_asking(copy.deepcopy(large)), OneDnnLinear) == {"0"}
    assert linear(for_asking(copy.deepcopy(large).bfloat16()), OneDnnLinear) == set()
