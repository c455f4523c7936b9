"""Passwords in texts: addresses of servers and databases are shown without them, whoever quotes them.

Libraries quote addresses in their errors, warnings and logs. `hide_passwords` sees to what this process logs and to errors that end
it; `passwords_hidden` to errors that go on to others, such as Prefect, which stores what an error says.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

HIDDEN = "***"
_USER_PART = re.compile(r"(://[^\s:/?#@'\"]*):(?!\d+[/?#])([^\s@'\"<>]*(?:@[^\s@/?#'\"<>]*(?=@))*)@")
"""User and password before a host; a password may hold `/`, and `@` unless a `/` comes behind it. A port is no password."""
_TOKEN_AS_USER = re.compile(r"((?:https?|wss?)://)[^\s:/?#@'\"<>]+(?=(?::(?:x-oauth-basic)?)?@)", re.IGNORECASE)
"""A user without a password, as services take a token. In addresses of databases such a user is a name, which stays readable."""
_AUTHORIZATION = re.compile(
    r"(authorization\\?['\"]?\s*[:=,]\s*(?:b?\\?['\"])?)((?:bearer|basic|token|negotiate|apikey)\s+)?([^\s'\"\\,;)\]}]+)",
    re.IGNORECASE,
)
"""A header, as it is sent or as Python and JSON show it: its name, the scheme if one is named, and the secret."""
_QUERY = re.compile(r"([?&;]([^=&;#?\s'\"]+)=)([^&;#\s'\"<>]+)")
_SECRET_NAME = re.compile(r"passw(or)?d|pwd|token|secret|api_?key|credential", re.IGNORECASE)
_KEYWORD = re.compile(r"\b((?:ssl|pg)?passw(?:or)?d=)('[^']*'|\"[^\"]*\"|[^\s,;&)\]}]+)", re.IGNORECASE)
"""As in a connection string of Postgres: `host=here password=secret`."""
ADDRESSES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_BACKEND_STORE_URI",
    "PREFECT_API_URL",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
)
PASSWORDS = (
    "PGPASSWORD",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PREFECT_API_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCESS_KEY",
)
LOGINS = ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "SOFTGRPO_CREDENTIALS")
"""Environment variables with addresses, with passwords, and with a user and a password, a colon between them."""
LEAST_CHARACTERS_OF_A_BARE_TOKEN = 16
"""What follows the name of the header without a scheme may be a sentence; a shorter word is taken for part of one."""
LEAST_CHARACTERS = 4
"""A shorter password is hidden in addresses alone: elsewhere it would be part of many words."""


def without_password(text: str) -> str:
    """Returns a text with `***` for every password and token.

    Those in addresses and `Authorization` headers, and those that the environment holds wherever they are.
    """
    text = _TOKEN_AS_USER.sub(rf"\1{HIDDEN}", text)
    text = _USER_PART.sub(rf"\1:{HIDDEN}@", text)
    text = _AUTHORIZATION.sub(_without_token, text)
    text = _QUERY.sub(lambda match: match[1] + HIDDEN if _SECRET_NAME.search(unquote(match[2])) else match[0], text)
    text = _KEYWORD.sub(rf"\1{HIDDEN}", text)
    for secret in _known(tuple(os.environ.get(name, "") for name in (*ADDRESSES, *PASSWORDS, *LOGINS))):
        text = text.replace(secret, HIDDEN)
    return text


def _without_token(header: re.Match[str]) -> str:
    name, scheme, value = header[1], header[2] or "", header[3]
    return f"{name}{scheme}{HIDDEN}" if scheme or len(value) >= LEAST_CHARACTERS_OF_A_BARE_TOKEN else header[0]


def without_login(uri: str) -> str:
    """Returns the address of a page without user and password, so that a browser can open it."""
    address = urlsplit(uri)
    return urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))


@cache
def _known(values: tuple[str, ...]) -> tuple[str, ...]:
    """Returns all forms of the passwords in values of the environment variables above, the longest first."""
    addresses = values[: len(ADDRESSES)]
    passwords = {*values[len(ADDRESSES) : -len(LOGINS)]}
    logins = {*values[-len(LOGINS) :]}
    for address in addresses:
        user, colon, password = address.partition("://")[2].partition("?")[0].rpartition("@")[0].partition(":")
        if colon:  # whatever it consists of: here it is known where the address ends
            passwords.add(password)
            logins.add(unquote(f"{user}:{password}"))
        elif user and _TOKEN_AS_USER.match(address):
            passwords.add(user)
        for match in _USER_PART.finditer(address):
            passwords.add(match[2])
            logins.add(unquote(f"{match[1].removeprefix('://')}:{match[2]}"))
        passwords |= {match[3] for match in _QUERY.finditer(address) if _SECRET_NAME.search(unquote(match[2]))}
    passwords |= {login.partition(":")[2] for login in logins}
    forms = {form for each in passwords for form in (each, unquote(each), quote(unquote(each), safe=""))}
    forms |= {base64.b64encode(login.encode()).decode() for login in logins if ":" in login}
    return tuple(sorted((form for form in forms if len(form) >= LEAST_CHARACTERS), key=len, reverse=True))


def scrub(error: BaseException) -> None:
    """Takes passwords out of what an error says, and those that led to it; it keeps its type and its traceback."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        waiting += [each.__cause__, each.__context__, *(arg for arg in each.args if isinstance(arg, BaseException))]
        each.args = tuple(without_password(arg) if isinstance(arg, str) else arg for arg in each.args)
        attributes = getattr(each, "__dict__", {})
        for name, value in list(attributes.items()):  # MLflow's and urllib3's errors say what an attribute holds
            if isinstance(value, str):
                attributes[name] = without_password(value)


@contextmanager
def passwords_hidden() -> Iterator[None]:
    """Lets no error out of a block with a password in what it says."""
    try:
        yield
    except Exception as error:  # broad: any library may quote an address; it goes on to the caller
        scrub(error)
        raise


def traceback_text(error: BaseException) -> str:
    """Returns the traceback of an error without passwords."""
    return without_password("".join(traceback.format_exception(error)))


class _CleanRecord(logging.LogRecord):
    """What is logged, without passwords in message and traceback."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        try:
            message = self.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit: logging says so itself
            return
        if (clean := without_password(message)) != message:
            self.msg, self.args = clean, None
        if self.exc_info and self.exc_info[1] is not None:
            self.exc_text = traceback_text(self.exc_info[1]).rstrip("\n")


def hide_passwords() -> None:
    """Takes passwords out of all that this process logs, warns of, and says of errors that nothing catches; once is enough."""
    if logging.getLogRecordFactory() is _CleanRecord:
        return
    logging.setLogRecordFactory(_CleanRecord)
    warnings.formatwarning = _clean(warnings.formatwarning)
    sys.excepthook = _say
    threading.excepthook = lambda ended: _say(ended.exc_type, ended.exc_value, ended.exc_traceback)


def _clean(function: Callable[..., str]) -> Callable[..., str]:
    return lambda *arguments, **more: without_password(function(*arguments, **more))


def _say(kind: type[BaseException], error: BaseException | None, place: TracebackType | None) -> None:
    """Writes an error that nothing has caught to standard error, as Python does."""
    if kind is not SystemExit:
        sys.stderr.write(without_password("".join(traceback.format_exception(kind, error, place))))
