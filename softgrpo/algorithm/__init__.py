"""SofT-GRPO and its trainers on torch, transformers and trl alone: no word of recommenders, so that it can be lifted out with
`errors` and `reporting`."""
