"""Runs a Python file as `python FILE` does, until the process at the other end of its standard input is gone.

A program of its own, started by path: `python tether.py FILE [ARGUMENT ...]`. The system closes the pipe however that process
ends, `kill -9` included.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

GRACE_SECONDS = 10.0


def end_with_parent() -> None:
    """Waits for the end of standard input, then ends this process: politely first."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
