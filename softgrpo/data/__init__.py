"""Interactions: from files to a corpus to windows. It knows no recaller and no model."""
