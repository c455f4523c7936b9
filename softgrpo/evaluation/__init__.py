"""Baselines, significance, the comparison table and the report. Test windows decide nothing here: validation does."""

FOCUS = "grpo_multi"
"""The method that runs are compared by, and whose weights and cases a report shows."""
