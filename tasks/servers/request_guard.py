"""Guards of a server's pages and API: only requests that name the server and come from its own pages get through.

A web page can send requests to any address that its visitor's machine reaches. The browser then adds the page's own `Origin`.
Where the domain name of the page itself leads to the server's address (DNS rebinding), `Host` names that domain.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FORBIDDEN, UNAUTHORIZED = 403, 401
POLICY_VIOLATION = 1008
"""Code with which a WebSocket is closed; before it is accepted, the server answers 403 to it."""
SHOWN_CHARACTERS = 200


class RequestGuard:
    """ASGI middleware that answers 403 to requests with a foreign `Host` or `Origin`, WebSockets included.

    A request without `Origin` passes: browsers send it with everything that could change something, other clients never. No foreign
    page may show the server's pages in a frame.

    Args:
        app: The application that it guards.
        hosts: Names and addresses under which the server is asked, without a port.
        origins: Origins of pages, besides those that the server itself has delivered under the name it is asked for.
        remedy: What a person does whose request is refused.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str], remedy: str) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)
        self.origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self.remedy = remedy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request, one WebSocket, or the server's start and end."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif problem := self.problem(Headers(scope=scope)):
            await _refuse(scope, receive, send, f"{problem}. {self.remedy}\n")
        else:
            await self.app(scope, receive, _unframed(send) if scope["type"] == "http" else send)

    def problem(self, headers: Headers) -> str:
        """Returns what is wrong with the headers of a request, or nothing."""
        names = headers.getlist("host")
        if len(names) != 1 or _host(names[0]) not in self.hosts:
            return f"Host {_shown(names)}: this server answers to {', '.join(sorted(self.hosts))}"
        own = {f"{scheme}://{names[0].lower()}" for scheme in ("http", "https")}
        origins = headers.getlist("origin")
        if not {origin.lower() for origin in origins} <= own | self.origins:
            return f"Origin {_shown(origins)}: pages of other servers may not use this one"
        return ""


class PasswordGuard:
    """ASGI middleware that asks for a user and a password (HTTP's basic authentication), but for the health check.

    Args:
        app: The application that it guards.
        credentials: `user:password`.
    """

    def __init__(self, app: ASGIApp, credentials: str) -> None:
        self.app = app
        self.credentials = credentials.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request, one WebSocket, or the server's start and end."""
        if scope["type"] == "lifespan" or self._may_pass(scope):
            await self.app(scope, receive, send)
        else:
            ask = {"WWW-Authenticate": 'Basic realm="softgrpo"'}
            await _refuse(scope, receive, send, "User and password are missing or wrong\n", UNAUTHORIZED, ask)

    def _may_pass(self, scope: Scope) -> bool:
        if scope["path"] == "/health":
            return True
        scheme, _, encoded = Headers(scope=scope).get("authorization", "").partition(" ")
        try:
            credentials = base64.b64decode(encoded, validate=True)
        except ValueError:  # no base64, or letters beyond ASCII
            return False
        return scheme.lower() == "basic" and hmac.compare_digest(credentials, self.credentials)


async def _refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    message: str,
    status: int = FORBIDDEN,
    headers: dict[str, str] | None = None,
) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
    else:
        await PlainTextResponse(message, status, headers)(scope, receive, send)


def _host(name: str) -> str | None:
    """Returns the host of a `Host` header without its port, or None where it is no host."""
    try:
        return None if "@" in name else urlsplit(f"//{name}").hostname
    except ValueError:  # a bracket that is not closed
        return None


def _shown(values: list[str]) -> str:
    return repr(", ".join(values))[:SHOWN_CHARACTERS] if values else "is missing"


def _unframed(send: Send) -> Send:
    """Returns a `send` that adds the header by which a browser shows an answer in no foreign page's frame."""

    async def send_unframed(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["X-Frame-Options"] = "SAMEORIGIN"
        await send(message)

    return send_unframed
