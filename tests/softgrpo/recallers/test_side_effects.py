"""RecBole changes nothing in the process for those who come after it."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import torch
from softgrpo.recallers.recbole_compat import import_models, restore_aliases
restore_aliases()
import_models()
import recbole.model.sequential_recommender.sine
assert not torch.is_anomaly_enabled(), "SINE's import switches on anomaly detection, which makes every training slow"
"""


def test_anomaly_detection_stays_off() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=120)
