"""Several reward functions with weights: how they are called, named and added up, on samples and in evaluation.

Legend: B prompts, G generations, M classes, F reward functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from trl.trainer.utils import get_callable_name

from softgrpo.algorithm.prompt_data import PROMPT
from softgrpo.algorithm.soft_grpo import ADVANTAGE_EPSILON, ScaleRewards, group_advantages
from softgrpo.errors import ConfigError, TrainingError

RewardFunction = Callable[..., Any]
"""`(weights (B, G, M), column=..., ...)` or `(weights (B, G, M), batch)` to rewards (B, G): a tensor, an array or nested lists."""
Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]
BATCH, INDEX, PROMPTS, STATE = "batch", "index", "prompts", "trainer_state"


@dataclass(frozen=True)
class _Named:
    """One reward function.

    Attributes:
        name: As it is logged.
        call: The function.
        columns: Names of the columns that it takes by keyword; None where it takes the whole batch.
    """

    name: str
    call: RewardFunction
    columns: tuple[str, ...] | None

    @property
    def knows_rows(self) -> bool:
        """Whether it may tell rows by their number, which is another row's in other data."""
        return self.columns is None or INDEX in self.columns

    def __call__(self, weights: Tensor, batch: Mapping[str, Any]) -> Tensor:
        if self.columns is None:
            rewards = self.call(weights, batch)
        else:
            rewards = self.call(weights, **{name: batch[name] for name in self.columns})
        expected = tuple(weights.shape[:2])
        if not isinstance(rewards, Tensor) and rewards is not None:
            rewards = torch.as_tensor(rewards, device=weights.device)
        if rewards is None or tuple(rewards.shape) != expected:
            found = "None" if rewards is None else tuple(rewards.shape)
            rule = f"the reward of weights (B, G, M) is a tensor (B, G) = {expected}"
            remedy = f"Correct the reward function {self.name}"
            raise TrainingError(f"rewards of shape {found}", rule, remedy, code="TRAINING-015")
        result: Tensor = rewards.float()
        return result


def _columns_of(function: RewardFunction, name: str, known: Collection[str]) -> tuple[str, ...] | None:
    """Returns the columns that a function takes by keyword, None where it takes the batch.

    Raises:
        TrainingError: It needs a column that is not there.
    """
    parameters = list(inspect.signature(function).parameters.values())[1:]  # the first are the weights
    named = [each for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    needed = [each.name for each in named if each.default is each.empty]
    missing = [each for each in needed if each not in known]
    if missing and len(needed) == 1 and parameters[0].kind is not parameters[0].KEYWORD_ONLY:
        return None
    if missing:
        raise TrainingError(
            f"reward function {name} with the parameter{'s' * (len(missing) > 1)} {', '.join(missing)}",
            f"beside the weights it takes columns of the data by name ({', '.join(sorted(known))}), or the whole batch alone",
            "Rename the parameters, or add the columns",
            code="TRAINING-027",
        )
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return tuple(sorted(known))
    return tuple(each.name for each in named if each.name in known)


class RewardFunctions:
    """Reward functions and the weights that they are added up with.

    Args:
        functions: One or several. A function gets the weights (B, G, M) first, and beside them what its parameters are named
            after: columns of the data (tensors where they are numbers of one shape, lists otherwise), `prompts` (as in TRL, the
            column `prompt`), `index` (row numbers) and `trainer_state`. One whose only further parameter is none of these, such as
            `batch`, gets a dict of all columns.
        weights: One for each; None is 1 for all.
        columns: Names of the columns of the data.

    Raises:
        ConfigError: There are no functions, two of one name, or another number of weights.
        TrainingError: A function needs a column that is not there.
    """

    def __init__(
        self, functions: RewardFunction | Sequence[RewardFunction], weights: Sequence[float] | None, columns: Collection[str]
    ) -> None:  # fmt: skip
        each = list(functions) if isinstance(functions, Sequence) else [functions]
        known = {*columns, INDEX, STATE} - {"input_ids"} | ({PROMPTS} if PROMPT in columns else set())
        names = [get_callable_name(function) for function in each]
        if not each or len(set(names)) < len(names):
            raise ConfigError(
                f"reward functions {', '.join(names) or 'none'}",
                "there is at least one, and each has a name of its own in the log",
                "Pass a function, or set __name__ of those that share one",
                code="CONFIG-102",
            )
        if weights is not None and len(weights) != len(each):
            raise ConfigError(
                f"reward_weights of {len(weights)} numbers for {len(each)} reward functions",
                "each function has one weight",
                "Correct reward_weights, or leave it out",
                code="CONFIG-103",
            )
        self._each = [
            _Named(name, call, _columns_of(call, name, known)) for name, call in zip(names, each, strict=True)
        ]
        self.weights = torch.ones(len(each)) if weights is None else torch.tensor(weights, dtype=torch.float32)

    @property
    def names(self) -> list[str]:
        """Names of the F functions."""
        return [each.name for each in self._each]

    def for_other_rows(self) -> RewardFunctions | None:
        """Returns those that also hold for other rows than training's, because they know rows by their columns alone.

        None where there is none.
        """
        kept = [place for place, each in enumerate(self._each) if not each.knows_rows]
        if not kept:
            return None
        other = object.__new__(RewardFunctions)
        other._each, other.weights = [self._each[place] for place in kept], self.weights[kept]
        return other

    def of(self, weights: Tensor, batch: Mapping[str, Any], state: object = None) -> Tensor:
        """Returns the rewards of weights (B, G, M), (B, G, F) float32.

        Args:
            weights: Samples, or the weights of a policy with G = 1.
            batch: Columns of the B rows.
            state: Of the trainer.

        Raises:
            TrainingError: Rewards are not of the shape (B, G).
        """
        given = {**batch, STATE: state} | ({PROMPTS: batch[PROMPT]} if PROMPT in batch else {})
        rewards = [each(weights, batch if each.columns is None else given) for each in self._each]
        return torch.stack(rewards, dim=-1)

    def total(self, rewards: Tensor) -> Tensor:
        """Returns the weighted sum (B, G) of rewards (B, G, F)."""
        return (rewards * self.weights.to(rewards.device)).sum(-1)

    def scores(self, rewards: Tensor, aggregation: Aggregation) -> Tensor:
        """Returns what samples are compared by, (B, G): the weighted sum of rewards (B, G, F), each normalised in its group first
        with `normalize_then_sum` (arXiv 2601.05242).

        Raises:
            TrainingError: A reward is not finite.
        """
        if aggregation == "sum_then_normalize":
            return self.total(rewards)
        return self.total(torch.stack([group_advantages(each) for each in rewards.unbind(-1)], dim=-1))


def advantages(scores: Tensor, aggregation: Aggregation, scale: ScaleRewards, step_scores: Tensor | None) -> Tensor:
    """Returns the advantages (B, G) of scores (B, G).

    Args:
        scores: See `RewardFunctions.scores`.
        aggregation: Whether rewards are normalised before they are added up; then scores have mean 0 in each group, and are
            divided by their standard deviation over the step.
        scale: See `group_advantages`; for `sum_then_normalize`.
        step_scores: All scores of the optimiser step; None takes `scores`.

    Raises:
        TrainingError: A score is not finite.
    """
    if aggregation == "sum_then_normalize":
        return group_advantages(scores, scale, step_scores)
    together = scores if step_scores is None else step_scores
    return scores / (together.std() + ADVANTAGE_EPSILON)
