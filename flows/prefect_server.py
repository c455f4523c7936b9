"""Prefect's server on a socket that is open already: `python prefect_server.py DESCRIPTOR`. `flows.own_server` starts it."""

from __future__ import annotations

import socket
import sys

import uvicorn
from prefect.server.api.server import create_app

GRACE_SECONDS = 2

if __name__ == "__main__":
    config = uvicorn.Config(create_app(), log_level="error", lifespan="on", timeout_graceful_shutdown=GRACE_SECONDS)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
