"""`ablate`: variants of the same experiment, shared stages made once, one comparison; on tiny stages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.fake_groups import FakeGroups


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeGroups:
    import softgrpo.flows.variants as module

    found = FakeGroups()
    monkeypatch.setattr(module, "plan", found.plan)
    return found


def test_only_what_a_variant_touches_is_made_again(fakes: FakeGroups, output: Path) -> None:
    from softgrpo.flows.variants import ablate_flow

    compared = ablate_flow("tau", overrides={"evaluation.bootstrap": 4000}, output=output, check=False, parallel=1)
    counts = Counter(fakes.calls)
    assert {counts[name] for name in ("split", "recall-EASE", "data", "sft")} == {1}
    assert counts["grpo"] == counts["test"] == 3
    assert list(dict.fromkeys(compared.table["run"])) == ["as it is", "tau_gumbel 0.3", "tau_gumbel 2.0"]
    assert len(compared.verdicts) == 2 and all("as it is" in verdict for verdict in compared.verdicts)
    fakes.calls.clear()
    ablate_flow("tau", overrides={"evaluation.bootstrap": 4000}, output=output, check=False, parallel=1)
    assert fakes.calls == []
