"""Merging lists and measuring them: pure tensor functions of (lists, weights, `FusionConfig`). A merge method is complete when
this package has it."""
