"""Keeps RecBole 1.2.1 working with today's libraries, and its side effects away from everybody else."""

from __future__ import annotations

import importlib
import io
import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

_ALIASES = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}
log = logging.getLogger("softgrpo.recbole")


class _Redirect(logging.Filter):
    """RecBole logs to the root logger; this hands its lines to ours, at debug level."""

    def filter(self, record: logging.LogRecord) -> bool:
        log.debug(record.getMessage())
        return False


class Printed(io.TextIOBase):
    """Takes what models print while they are built, for the same log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.debug(text.strip())
        return len(text)


class NullWriter:
    """Stands in for the TensorBoard writer."""

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Does nothing."""

    def add_hparams(self, hparams: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        """Does nothing."""


def restore_aliases() -> None:
    """Gives numpy and scipy back the names that RecBole uses and that later versions dropped."""
    for name, kind in _ALIASES.items():
        if name not in np.__dict__:
            setattr(np, name, kind)
    if "_update" not in sp.dok_matrix.__dict__:
        # LightGCN, NGCF and others fill a matrix from a dict of positions at once
        sp.dok_matrix._update = lambda self, data: self._dict.update(data)


def import_models() -> None:
    """Imports RecBole's models; one of them (SINE) switches autograd's anomaly detection on for the whole process."""
    with torch.autograd.set_detect_anomaly(torch.is_anomaly_enabled()):  # restored at the end: it makes training slow
        importlib.import_module("recbole.model.sequential_recommender")


def visible_devices(use_gpu: bool) -> str:
    """Returns RecBole's `gpu_id`: the devices this process sees already, "" for none."""
    if not use_gpu:
        return ""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen if chosen is not None else ",".join(map(str, range(torch.cuda.device_count())))


@contextmanager
def shielded() -> Iterator[None]:
    """While it is open, RecBole sees no command line, and what it changes in the process is put back at the end.

    Covered: `sys.argv`, `CUDA_VISIBLE_DEVICES`, the root logger, warnings, the global random states of
    python, numpy and torch, and the cuDNN flags.
    """
    arguments, devices = sys.argv, os.environ.get("CUDA_VISIBLE_DEVICES")
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    flags = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    redirect = _Redirect()
    logging.getLogger().addFilter(redirect)
    sys.argv = arguments[:1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.argv = arguments
        logging.getLogger().removeFilter(redirect)
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = devices
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = flags
