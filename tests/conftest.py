"""What all tests share: nothing outside the tests' own folders is read or written, and nothing phones home."""

from __future__ import annotations

import os

import pytest

os.environ |= {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
}
for variable in ("SOFTGRPO_DATA", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
    os.environ.pop(variable, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest test first: of two test processes one does it, and the other one the rest."""
    items.sort(key=lambda item: item.path.name != "test_main_job.py")
