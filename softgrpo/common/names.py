"""Names that settings, stages and recallers share. It imports nothing: `--help` and completions need it too."""

TEXT = "Text"
"""The recaller by item texts; it is no model of RecBole."""
