"""Latency of a served bundle over HTTP: `python -m benchmarks.serving FOLDER/bundle`.

It starts `mlflow models serve` on the bundle, sends tables of one request with lists of made-up candidates, one after the other,
then from several clients at once, and ends the server. The bundle is also asked in this process, for the time of processor that an
answer takes, which other programs on the machine change less.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from softgrpo.serving.bundle import ITEMS, load_bundle, read_card

START_SECONDS = 180
DEPTH = 100


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def served(model: Path | str) -> Iterator[str]:
    """Gives the address of a server of a model, and ends it with the block."""
    port = free_port()
    words = ["models", "serve", "-m", str(model), "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "mlflow", *words]
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(address):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"no server for {model}")
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/ping", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def bodies(bundle: Path, count: int, depth: int, seed: int = 0) -> list[bytes]:
    """Returns bodies of requests: a history of 20 items, and a list of `depth` other items from each recaller."""
    card, tokens = read_card(bundle), pd.read_parquet(bundle / ITEMS)["token"].to_numpy(object)
    generator = np.random.default_rng(seed)
    made = []
    for request in range(count):
        order = generator.permutation(len(tokens))
        history, left = tokens[order[:20]].tolist(), tokens[order[20:]]
        rows: list[list[Any]] = [
            [str(request), name, item, float(score), None]
            for name in card["config"]["recall"]["recallers"]
            for item, score in zip(
                generator.choice(left, depth, replace=False), -np.sort(-generator.random(depth)), strict=True
            )
        ]
        rows[0][-1] = history
        table = {"columns": ["request", "recaller", "item", "score", "history"], "data": rows}
        made.append(json.dumps({"dataframe_split": table}).encode())
    return made


def ask(address: str, body: bytes) -> float:
    """Sends a request; returns milliseconds until the whole answer was there."""
    start = time.perf_counter()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
    return 1000 * (time.perf_counter() - start)


def processor_ms(bundle: Path, made: list[bytes]) -> float:
    """Returns milliseconds of processor per request where a bundle is asked without a server, with one thread."""
    torch.set_num_threads(1)
    answer = load_bundle(bundle)
    frames = [pd.DataFrame(**json.loads(body)["dataframe_split"]) for body in made]
    for frame in frames[:5]:
        answer(frame)
    start = time.process_time()
    for frame in frames[5:]:
        answer(frame)
    return 1000 * (time.process_time() - start) / len(frames[5:])


def measure(model: Path, count: int, clients: int, depth: int) -> dict[str, float]:
    """Returns median and 99th percentile in ms of single requests, and requests per second of several clients."""
    bundle = model / "artifacts/bundle"
    made = bodies(bundle, count + 20, depth)
    alone = processor_ms(bundle, made[:45])
    with served(model) as address:
        for body in made[:20]:  # the first ones load code
            ask(address, body)
        single = np.array([ask(address, body) for body in made[20:]])
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(lambda body: ask(address, body), made[20:]))
        rate = count / (time.perf_counter() - start)
    p50, p99 = np.percentile(single, [50, 99])
    return {"p50_ms": p50, "p99_ms": p99, "requests_per_second": rate, "processor_ms_without_server": alone}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("model", type=Path, help="folder `bundle` of an export")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--depth", type=int, default=DEPTH, help="items of each list")
    arguments = parser.parse_args()
    row = measure(arguments.model, arguments.requests, arguments.clients, arguments.depth)
    print(json.dumps({name: round(value, 1) for name, value in row.items()}))


if __name__ == "__main__":
    main()
