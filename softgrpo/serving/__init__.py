"""Finished policies and recommendations from them. It reads finished stages and writes none."""
