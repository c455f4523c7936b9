"""Rows of the table beside the trained language model: searches for global weights, gates on numbers, zero-shot prompts."""
