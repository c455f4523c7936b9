"""What answers at an address is of another kind: one error within ten seconds that says so, and no traceback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from softgrpo.errors import ConfigError, SoftGRPOError, StoreError
from softgrpo.flows.cli import main
from softgrpo.flows.runtime.environment import check_servers
from softgrpo.tasks.servers.addresses import check_answers

HTML = b"<!doctype html><title>wiki</title>"


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    """Returns what a web server answers."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


ANSWERS = {
    "a page": http("200 OK", HTML),
    "nothing there": http("404 Not Found", HTML),
    "an error": http("500 Internal Server Error"),
    "another JSON": http("200 OK", b'{"status": "fine"}'),
    "nested JSON": http("200 OK", b"[" * 60_000),
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a mail server": b"220 mail ready\r\n",
    "a redirect to itself": http("302 Found", b"", "Location: /"),
}


class Stranger:
    """A server on loopback that gives every request the same answer.

    Args:
        answer: Sent at once, and then the connection is closed.
        more: Sent one byte every 0.1 s for ever behind it.
    """

    def __init__(self, answer: bytes, more: bytes = b"") -> None:
        self._answer, self._more = answer, more
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._reply, args=(connection,), daemon=True).start()

    def _reply(self, connection: socket.socket) -> None:
        with connection:
            connection.recv(65_536)
            try:
                connection.sendall(self._answer)
                while self._more:
                    connection.sendall(self._more)
                    time.sleep(0.1)
            except OSError:  # whoever asked has left
                pass

    def close(self) -> None:
        """Takes no further requests."""
        self._listening.close()


@pytest.fixture
def stranger() -> Iterator[Callable[..., int]]:
    """Starts servers and gives their ports."""
    started: list[Stranger] = []

    def start(answer: bytes, more: bytes = b"") -> int:
        started.append(Stranger(answer, more))
        return started[-1].port

    yield start
    for server in started:
        server.close()


@pytest.mark.parametrize("setting", ["PREFECT_API_URL", "MLFLOW_TRACKING_URI"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_web_server_of_another_kind_is_named(
    answer: str, setting: str, stranger: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{stranger(ANSWERS[answer])}"
    with pytest.raises(StoreError, match=f"{setting}={address} is not the address of .* server"):
        check_answers(address, setting)


@pytest.mark.parametrize(
    ("answer", "more"), [(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), (b"HTTP/1.1 200 OK\r\n\r\n", b"x")]
)
def test_whoever_answers_without_an_end_is_not_waited_for(
    answer: bytes, more: bytes, stranger: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softgrpo.tasks.servers.addresses.DEADLINE_SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"\[STORE-029\]"):
        check_answers(f"http://127.0.0.1:{stranger(answer, more)}", "MLFLOW_TRACKING_URI")
    assert time.monotonic() - began < 3


def test_a_server_that_wants_credentials(stranger: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{stranger(http('401 Unauthorized'))}"
    with pytest.raises(
        StoreError, match=r"HTTP status 401.*MLFLOW_TRACKING_USERNAME.*MLFLOW_TRACKING_TOKEN.*\[STORE-035\]"
    ):
        check_answers(address, "MLFLOW_TRACKING_URI")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "x")
    check_answers(address, "MLFLOW_TRACKING_URI")


@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "http"])
def test_no_database_answers_where_one_is_named(scheme: str, stranger: Callable[..., int]) -> None:
    """MLflow itself would try such a database again for a hundred seconds."""
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"cannot be opened|not the address"):
        check_answers(f"{scheme}://u:secret@127.0.0.1:{stranger(ANSWERS['no HTTP'])}/mlflow", "MLFLOW_TRACKING_URI")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("address", "module", "remedy"),
    [
        ("postgresql+psycopg://u:secret@127.0.0.1/x", "psycopg", r"postgresql\+psycopg2://"),
        ("mysql://u:secret@127.0.0.1/x", "MySQLdb", r"mysql\+pymysql://"),
        ("mssql://u:secret@127.0.0.1/x", "pyodbc", "Install pyodbc"),
    ],
)
def test_a_driver_that_is_missing_is_named(address: str, module: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=f"Python module {module}, is not installed.*{remedy}") as raised:
        check_answers(address, "MLFLOW_TRACKING_URI")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "address",
    ["http://", "http://[::1", "http://h:port/", "postgresql+nosuch://h/x", "http://\udc80/", f"http://{'a' * 300}/"],
)
def test_what_cannot_be_an_address(address: str) -> None:
    with pytest.raises(SoftGRPOError, match="MLFLOW_TRACKING_URI="):
        check_answers(address, "MLFLOW_TRACKING_URI")


def test_prefect_has_a_web_address() -> None:
    with pytest.raises(ConfigError, match=r"http://127.0.0.1:4200/api.*\[CONFIG-073\]"):
        check_answers("postgresql://127.0.0.1/x", "PREFECT_API_URL")


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_a_socks_proxy_needs_packages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "socks5://me:secret@127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"socks5://127\.0\.0\.1\. .*pysocks.*\[CONFIG-079\]") as raised:
        check_servers()
    assert "secret" not in str(raised.value)


def test_a_run_says_it_in_one_line(
    stranger: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for setting in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        with monkeypatch.context() as patch:
            patch.setenv(setting, f"http://127.0.0.1:{stranger(ANSWERS['a page'])}")
            assert main(["run", "ml-100k", "debug", "tiny"]) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1 and "is not the address of" in shown
    assert list(tmp_path.iterdir()) == []
