"""Baselines, significance, the comparison table and the report. Test windows decide nothing here: validation does."""
