"""Prefect's server on a socket that is open already: `python prefect_server.py DESCRIPTOR`. `flows.own_server` starts it."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import uvicorn
from prefect.server.api.server import create_app

from flows.prefect_database import room

GRACE_SECONDS = 2

if __name__ == "__main__":
    config = uvicorn.Config(create_app(), log_level="error", lifespan="on", timeout_graceful_shutdown=GRACE_SECONDS)
    with room(Path(os.environ["PREFECT_HOME"])):
        uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
