"""How many prompts can teach SofT-GRPO anything: the share of groups of equal rewards at its start, by samples and by cut-off.

Reads the stages `split` and `data` of a run of ml-100k (`softgrpo run ml-100k data tiny`) and samples weights around the best
static mixture, as the first step of SofT-GRPO does. Run `python examples/sparse_reward.py`; it takes seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from softgrpo.algorithm.noise import row_noise
from softgrpo.algorithm.soft_grpo import equal_rewards, sample
from softgrpo.common.records import Part
from softgrpo.policy.prior import static_prior
from softgrpo.presets import resolve
from softgrpo.ranking.rewards import RankingReward
from softgrpo.stages.inputs import Prepared

GENERATIONS, CUTOFFS = (4, 16, 64), (10, 20, 50)


def share_of_equal(prepared: Prepared, generations: int, k: int) -> float:
    """Returns the share of policy windows whose sampled weights all get the same NDCG@k."""
    rows = prepared.windows.of(Part.POLICY)
    prior = static_prior(torch.tensor(prepared.static.best.weights).numpy(), prepared.config.policy.prior_floor)
    logits = torch.tensor(prior).expand(len(rows), -1)
    noise = row_noise(torch.arange(len(rows)), (generations, len(prior)), seed=0, generation=0)
    grpo = prepared.config.grpo
    weights = sample(logits, noise, grpo.tau_gumbel, grpo.top_p).weights
    judged = prepared.judged(rows, prepared.fusion.model_copy(update={"k": k}))
    reward = RankingReward(judged.aligned, judged.targets, judged.fusion)
    rewards = torch.cat([reward(part, {"index": index}) for part, index in _parts(weights)])
    return equal_rewards(rewards).float().mean().item()


def _parts(weights: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    index = torch.arange(len(weights))
    return list(zip(weights.split(256), index.split(256), strict=True))


def newest(stages: Path, name: str) -> Path:
    """Returns the folder of the stage that was finished last."""
    return max(stages.glob(f"{name}-*.json"), key=lambda mark: mark.stat().st_mtime).with_suffix("")


def main(words: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    stages = parser.parse_args(words).output / "stages"
    print(
        f"| cut-off k | {' | '.join(f'G = {number}' for number in GENERATIONS)} |\n|{'---|' * (len(GENERATIONS) + 1)}"
    )
    prepared = Prepared(resolve("ml-100k", "tiny"), newest(stages, "split"), newest(stages, "data"))
    for k in CUTOFFS:
        shares = [share_of_equal(prepared, number, k) for number in GENERATIONS]
        print(f"| {k} | {' | '.join(f'{share:.0%}' for share in shares)} |")


if __name__ == "__main__":
    main()
