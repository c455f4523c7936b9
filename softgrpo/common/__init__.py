"""Vocabulary and small helpers for all other packages; it imports nothing of ours."""
