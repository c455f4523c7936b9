"""The language model that weighs recallers: prompts, the numbers in them, and the model. It knows no trainer."""
