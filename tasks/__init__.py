"""Thin shells around the stages: MLflow keeps what they made and said, Prefect remembers what was made."""
