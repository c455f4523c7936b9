"""Decisions inside stages."""

from __future__ import annotations

import pytest

from softgrpo.stages.grpo import choose_reading


@pytest.mark.parametrize(("plain", "tempered", "chosen"), [(0.2, 0.3, 0.5), (0.3, 0.2, 1.0), (0.3, 0.3, 1.0)])
def test_validation_chooses_the_reading_of_the_model_that_was_kept(
    plain: float, tempered: float, chosen: float
) -> None:
    drawn = {
        "eval_ndcg_multi": {"step": [0.0, 4.0], "value": [0.9, plain]},
        "eval_ndcg_multi_tau": {"step": [0.0, 4.0], "value": [0.1, tempered]},
    }
    assert choose_reading(drawn, 4.0, tau=0.5) == chosen
