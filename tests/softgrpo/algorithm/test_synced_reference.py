"""A reference that follows the policy: `sync_ref_model` with the share and the steps of TRL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback

from softgrpo.algorithm.trl_trainer import SoftGRPOConfig, SoftGRPOTrainer
from softgrpo.errors import TrainingError
from tests.support.toy_policy import toy_encoder, toy_reward, toy_rows, toy_tokenizer


class Watch(TrainerCallback):
    """Keeps one weight of the policy and of the reference after every step; it comes after the synchronisation."""

    def __init__(self, trainer: SoftGRPOTrainer) -> None:
        self._trainer = trainer
        self.policy, self.reference = [self._weight(trainer.model)], [self._weight(trainer.ref_model)]

    @staticmethod
    def _weight(model: Any) -> torch.Tensor:
        weight: torch.Tensor = model.classifier.weight.detach().clone()
        return weight

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keeps both."""
        self.policy.append(self._weight(self._trainer.model))
        self.reference.append(self._weight(self._trainer.ref_model))


def make(folder: Path, model: Any = None, **changes: Any) -> SoftGRPOTrainer:
    """Returns a trainer of 6 steps whose reference follows every 2 steps by a quarter."""
    settings: dict[str, Any] = {
        "use_cpu": True, "bf16": False, "report_to": [], "disable_tqdm": True, "save_strategy": "steps", "save_steps": 4,
        "learning_rate": 1e-2, "num_train_epochs": 2, "per_device_train_batch_size": 8, "logging_steps": 1, "beta": 0.5,
        "sync_ref_model": True, "ref_model_mixup_alpha": 0.25, "ref_model_sync_steps": 2,
    }  # fmt: skip
    args = SoftGRPOConfig(str(folder), **settings | changes)
    return SoftGRPOTrainer(toy_encoder() if model is None else model, toy_reward, args, toy_rows(), toy_tokenizer())


def test_the_reference_moves_by_its_share_at_its_steps(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    watch = Watch(trainer)
    trainer.add_callback(watch)
    trainer.train()
    assert trainer.reference_logits is None, "it is asked for each set of samples"
    for step in range(1, 7):
        expected = watch.reference[step - 1]
        if step % 2 == 0:
            expected = 0.75 * expected + 0.25 * watch.policy[step]
        assert torch.allclose(watch.reference[step], expected, atol=1e-7), step
    assert not torch.equal(watch.reference[2], watch.reference[0])
    kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert kl[0] == pytest.approx(0.0, abs=1e-7) and kl[1] > 1e-7


def test_a_reference_that_is_the_policy_of_the_step_before_is_never_far(tmp_path: Path) -> None:
    """With a share of 1 at every step the divergence is 0 whenever samples are drawn, however far training went."""
    followed = make(tmp_path, ref_model_mixup_alpha=1.0, ref_model_sync_steps=1)
    followed.train()
    kept = make(tmp_path, sync_ref_model=False)
    kept.train()
    last = [next(e["kl"] for e in t.state.log_history[::-1] if "kl" in e) for t in (followed, kept)]
    assert last[0] < 1e-6 < last[1]


def test_a_resumed_run_goes_on_with_the_reference_of_its_step(tmp_path: Path) -> None:
    whole = make(tmp_path)
    whole.train()
    again = make(tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for one, other in ((whole.model, again.model), (whole.ref_model, again.ref_model)):
        assert one is not None and other is not None
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    (tmp_path / "checkpoint-4/reference_model.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"without reference_model\.safetensors.*\[TRAINING-028\]"):
        make(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_adapters_are_followed_too(tmp_path: Path) -> None:
    """TRL refuses them, as its reference is the model without adapters; here it is a copy with adapters of its own."""
    model = get_peft_model(toy_encoder(), LoraConfig(r=2, target_modules="all-linear", modules_to_save=["classifier"]))
    trainer = make(tmp_path, model, ref_model_mixup_alpha=1.0, save_strategy="no")
    trainer.train()
    assert trainer.ref_model is not None
    pairs = list(zip(model.named_parameters(), trainer.ref_model.parameters(), strict=True))
    assert all(torch.allclose(value, followed) for (_, value), followed in pairs)  # step 6 was a synchronisation
    assert any("lora_B" in name and value.abs().max() > 0 for (name, value), _ in pairs)
