"""Judges weights: the table, its statistics, and the report. It trains nothing."""
