"""Evaluation that reports what the weights of a policy earn. Legend: N rows, M classes, F reward functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import EvalLoopOutput

from softgrpo.algorithm.batching import Row
from softgrpo.algorithm.prompt_data import PROMPT, as_rows
from softgrpo.algorithm.reward_functions import RewardFunction, RewardFunctions


class RewardedEvaluation(Trainer):
    """Mixin of a `PromptTrainer` with reward functions: data as users hold it, and rewards among the metrics of an evaluation."""

    rewards: RewardFunctions
    _eval_rewards: RewardFunctions | None
    _tokenizer: PreTrainedTokenizerBase
    _longest: int | None

    def _evaluated(self, data: Any) -> Any:
        """Returns rows to evaluate; of several sets by name, each."""
        if data is None or isinstance(data, str):  # the name of one of several sets
            return data
        if isinstance(data, Mapping) and not {PROMPT, "input_ids"} & data.keys():
            return {name: as_rows(each, self._tokenizer, self._longest) for name, each in data.items()}
        return as_rows(data, self._tokenizer, self._longest)

    def _rewards_of_evaluation(
        self, functions: RewardFunction | Sequence[RewardFunction] | None
    ) -> RewardFunctions | None:
        if functions is None:
            return self.rewards.for_other_rows()
        if isinstance(functions, Sequence) and not functions:
            return None
        rows: Any = self.eval_dataset
        first = next(iter(rows.values())) if isinstance(rows, Mapping) else rows
        return RewardFunctions(functions, None, () if first is None else first[0].keys())

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluates; arguments as in transformers, data as in `SoftGRPOTrainer`."""
        metrics: dict[str, float] = super().evaluate(self._evaluated(eval_dataset), *args, **kwargs)
        return metrics

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Predicts logits (N, M); arguments as in transformers, data as in `SoftGRPOTrainer`."""
        return super().predict(self._evaluated(test_dataset), *args, **kwargs)

    def evaluation_loop(
        self, dataloader: DataLoader[Row], description: str, *args: Any, **kwargs: Any
    ) -> EvalLoopOutput:  # fmt: skip
        """Returns predictions in the order of the rows; to the metrics of an evaluation it adds the rewards of softmax(z).

        Raises:
            TrainingError: A reward function needs a column that the rows lack.
        """
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        if description == "Prediction" or self._eval_rewards is None:
            return output
        assert output.metrics is not None
        rewards = self._rewards_of_policy(dataloader.dataset, torch.as_tensor(output.predictions).float().softmax(-1))
        prefix = kwargs["metric_key_prefix"]
        metrics = {f"{prefix}_reward": float(self._eval_rewards.total(rewards).mean())}
        for name, values in zip(self._eval_rewards.names, rewards.unbind(-1), strict=True):
            metrics[f"{prefix}_rewards/{name}/mean"] = float(values.mean())
            metrics[f"{prefix}_rewards/{name}/std"] = float(values.std(correction=0))
        return output._replace(metrics={**output.metrics, **metrics})

    def _rewards_of_policy(self, rows: Dataset[Row], weights: Tensor) -> Tensor:
        """Returns the rewards (N, F) of one set of weights (N, M) for each row."""
        assert self._eval_rewards is not None
        found, size = [], self.args.per_device_eval_batch_size
        for start in range(0, len(weights), size):
            own = weights[start : start + size].to(self.args.device)[:, None]
            batch = self._prepare_inputs(self.data_collator([rows[start + place] for place in range(len(own))]))
            found.append(self._eval_rewards.of(own, batch, self.state)[:, 0].cpu())
        return torch.cat(found)
