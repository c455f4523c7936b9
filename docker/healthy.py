"""Exit code 0 if the address in the first argument answers with success within five seconds, 1 otherwise."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request


def is_healthy(address: str) -> bool:
    """Tells whether an http address answers with success."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return 200 <= int(answer.status) < 300
    except OSError:  # refused, silent, or an answer of 400 and above
        return False


if __name__ == "__main__":
    sys.exit(not is_healthy(sys.argv[1]))
