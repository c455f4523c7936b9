"""Keeps libraries from writing between the lines of the benchmark."""

from __future__ import annotations

import warnings

from transformers.utils import logging


def quieten() -> None:
    """Switches off progress bars and warnings of transformers, and deprecation warnings of what the libraries call themselves."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
