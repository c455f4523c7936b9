"""Whether the servers of services answer."""

from __future__ import annotations

import time

import requests

from softgrpo.errors import StoreError
from softgrpo.flows.services.places import Services

PATIENCE_SECONDS = 120.0  # a first start makes two databases


def wait_healthy(services: Services) -> None:
    """Waits until both servers answer.

    Raises:
        StoreError: One does not within two minutes.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    for program, variable in (("prefect", "PREFECT_API_URL"), ("mlflow", "MLFLOW_TRACKING_URI")):
        address = f"{services.addresses[variable]}/health"
        while True:
            try:
                if requests.get(address, timeout=5).ok:
                    break
                answer = "an error"
            except requests.RequestException:
                answer = "no answer"
            if time.monotonic() > end:
                log = services.folder / f"{program}.log"
                raise StoreError(
                    f"{address}: {answer} within {PATIENCE_SECONDS:g} s",
                    "Both servers must answer",
                    f"Look into {log}",
                    code="STORE-015",
                )
            time.sleep(0.3)
