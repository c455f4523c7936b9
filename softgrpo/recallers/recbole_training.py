"""RecBole's trainers, watched: one progress bar, curves, best weights in memory, divergence as an error."""

from __future__ import annotations

from typing import Any

import recbole.trainer.trainer as recbole_trainer
import torch
from recbole.utils import get_trainer

from softgrpo.errors import RecallerError
from softgrpo.recallers.recbole_compat import NullWriter
from softgrpo.recallers.recbole_data import TrainingData
from softgrpo.reporting import ProgressBar, Reporter

State = dict[str, torch.Tensor]


def other_tensors(model: Any) -> dict[str, torch.Tensor | None]:
    """Returns what a model keeps beside its weights as tensors (counts, cached embeddings); None where not computed."""
    kept = model.other_parameter().items()
    return {name: value for name, value in kept if value is None or isinstance(value, torch.Tensor)}


class _Watched(recbole_trainer.Trainer):  # type: ignore[misc]  # recbole has no types
    """Mixed in before one of RecBole's trainers; see `fit`."""

    bar: Any
    reporter: Reporter | None
    steps: int
    best: tuple[State, dict[str, torch.Tensor | None]]

    def _check_nan(self, loss: torch.Tensor) -> None:
        if not torch.isfinite(loss):
            received = f"The training loss of {self.config['model']} became {loss.item()}"
            rule = "Training must not diverge"
            raise RecallerError(
                received, rule, "Lower its learning_rate or set clip_grad_norm: {max_norm: 5.0}", code="RECALLER-008"
            )
        self.bar.update(1)

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        losses = super()._train_epoch(train_data, epoch_idx, *args, **kwargs)
        loss = (sum(losses) if isinstance(losses, tuple) else losses) / self.steps
        self.bar.n = (epoch_idx + 1) * self.steps  # some models go through their data several times per epoch
        self.bar.set_postfix(epoch=epoch_idx + 1, loss=f"{loss:.4f}")
        if self.reporter is not None:
            self.reporter.metrics({"recall_loss": loss}, epoch_idx + 1)
        return losses

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> Any:
        score, result = super()._valid_epoch(valid_data, show_progress)
        if self.reporter is not None:
            self.reporter.metrics({"recall_valid_ndcg": float(score)}, self.bar.n // self.steps)
        return score, result

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        # RecBole calls this when validation improved, and after each epoch where there is no validation
        weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        others = {name: None if value is None else value.clone() for name, value in other_tensors(self.model).items()}
        self.best = weights, others


def fit(model: Any, data: TrainingData, reporter: Reporter | None) -> None:
    """Trains a model in place and leaves it with the weights of its best epoch on the held-back items, or of its last without any.

    Args:
        model: A RecBole model on its device.
        data: What it trains on.
        reporter: Gets `recall_loss` and `recall_valid_ndcg` per epoch.

    Raises:
        RecallerError: The loss became NaN or infinite.
    """
    # TensorBoard's writer would leave a folder in the working directory
    recbole_trainer.get_tensorboard = lambda logger: NullWriter()
    base = get_trainer(data.config["MODEL_TYPE"], data.config["model"])
    trainer = type("WatchedTrainer", (_Watched, base), {})(data.config, model)
    trainer.steps = len(data.loader)
    trainer.reporter = reporter
    total = trainer.epochs * trainer.steps
    with ProgressBar(total=total, desc=data.config["model"], unit="batch", mininterval=0.5) as trainer.bar:
        trainer.fit(data.loader, data.valid, verbose=False, saved=True, show_progress=False)
    weights, others = trainer.best
    model.load_state_dict(weights)
    model.load_other_parameter(others)
    model.eval()
