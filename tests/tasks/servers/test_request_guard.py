"""The guard before Prefect's server and the password before MLflow's, as plain ASGI: no server is started."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softgrpo.tasks.servers.request_guard import PasswordGuard, RequestGuard

HOSTS = ("127.0.0.1", "localhost", "Server.example")
ORIGINS = ("http://localhost:4200", "http://127.0.0.1:4200", "https://proxy.example/")
PAIRS = list[tuple[str, str]]


class Behind:
    """An application that answers 200 to all it gets, and counts it."""

    def __init__(self) -> None:
        self.seen = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen += 1
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"let in"})


def answers(app: ASGIApp, headers: PAIRS, kind: str = "http", path: str = "/api/flows/") -> list[Message]:
    """Returns what an application sends for one request."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": f"{kind}.request"}

    scope: dict[str, Any] = {"type": kind, "path": path, "method": "POST"}
    scope["headers"] = [(name.lower().encode(), value.encode()) for name, value in headers]
    asyncio.run(app(scope, receive, send))
    return sent


def guard(app: ASGIApp) -> RequestGuard:
    return RequestGuard(app, HOSTS, ORIGINS, "Ask the owner")


@pytest.mark.parametrize(
    "headers",
    [
        [("Host", "127.0.0.1:4200")],  # a client that is no browser sends no Origin
        [("Host", "LOCALHOST:4200")],
        [("Host", "server.example")],
        [("Host", "localhost:4200"), ("Origin", "http://localhost:4200")],
        [
            ("Host", "127.0.0.1:4200"),
            ("Origin", "http://localhost:4200"),
        ],  # the page asks another of the server's addresses
        [("Host", "server.example:8443"), ("Origin", "https://server.example:8443")],  # a proxy that passes Host on
        [("Host", "127.0.0.1:4200"), ("Origin", "https://proxy.example")],
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_the_servers_own_names_and_pages_get_through(headers: PAIRS, kind: str) -> None:
    behind = Behind()
    sent = answers(guard(behind), headers, kind)
    assert behind.seen == 1
    assert sent[0].get("status", 200) == 200 and sent[0]["type"] in ("http.response.start", "websocket.accept")


@pytest.mark.parametrize(
    "headers",
    [
        [("Host", "evil.example:4200")],  # DNS rebinding: the page's own name leads here
        [("Host", "evil.example:4200"), ("Origin", "http://evil.example:4200")],
        [("Host", "127.0.0.1.evil.example")],
        [("Host", "evil@127.0.0.1")],
        [("Host", "127.0.0.1:4200"), ("Host", "evil.example")],
        [("Host", "[::1")],
        [("Host", "")],
        [],
        [("Host", "127.0.0.1:4200"), ("Origin", "http://evil.example")],
        [("Host", "127.0.0.1:4200"), ("Origin", "http://127.0.0.1:8888")],  # another server of this machine
        [("Host", "127.0.0.1:4200"), ("Origin", "http://127.0.0.1:4200.evil.example")],
        [("Host", "127.0.0.1:4200"), ("Origin", "null")],  # a page in a sandbox
        [("Host", "127.0.0.1:4200"), ("Origin", "http://127.0.0.1:4200"), ("Origin", "http://evil.example")],
    ],
)
def test_foreign_names_and_pages_are_refused(headers: PAIRS) -> None:
    behind = Behind()
    start, body = answers(guard(behind), headers)
    assert start["status"] == 403 and b"Ask the owner" in body["body"]
    assert answers(guard(behind), headers, "websocket") == [{"type": "websocket.close", "code": 1008}]
    assert behind.seen == 0


def test_a_refusal_says_what_was_received_and_what_would_pass() -> None:
    _, body = answers(guard(Behind()), [("Host", "evil.example" + "x" * 5000)])
    text = body["body"].decode()
    assert text.startswith("Host 'evil.examplexxx") and len(text) < 400
    assert "this server answers to 127.0.0.1, localhost, server.example. Ask the owner" in text
    _, body = answers(guard(Behind()), [("Host", "localhost"), ("Origin", "http://evil.example")])
    assert body["body"].startswith(b"Origin 'http://evil.example': pages of other servers")


def test_no_foreign_page_may_show_the_server_in_a_frame() -> None:
    start, _ = answers(guard(Behind()), [("Host", "localhost")])
    assert dict(start["headers"])[b"x-frame-options"] == b"SAMEORIGIN"


def test_the_servers_start_and_end_pass_both_guards() -> None:
    behind = Behind()
    answers(PasswordGuard(guard(behind), "me:secret"), [], "lifespan")
    assert behind.seen == 1


def basic(credentials: str) -> PAIRS:
    return [("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode())]


def test_only_the_right_password_passes() -> None:
    behind = Behind()
    app = PasswordGuard(behind, "me:sécret")
    for headers in (
        [],
        basic("me:wrong"),
        basic("you:sécret"),
        [("Authorization", "Basic ???")],
        [("Authorization", "me")],
        [("Authorization", "Basic é")],
    ):
        start, _ = answers(app, headers)
        assert start["status"] == 401
        assert dict(start["headers"])[b"www-authenticate"].startswith(b"Basic")
        assert answers(app, headers, "websocket")[0]["type"] == "websocket.close"
    assert behind.seen == 0
    assert answers(app, basic("me:sécret"))[0]["status"] == 200
    assert answers(app, [], path="/health")[0]["status"] == 200  # who starts the server asks whether it is up
    assert answers(app, [], path="/healthy")[0]["status"] == 401
