"""Passwords are taken out of texts, errors and logs; what is no password stays."""

from __future__ import annotations

import base64
import subprocess
import sys

import pytest

from softgrpo.common.redaction import passwords_hidden, scrub, without_login, without_password
from softgrpo.errors import ConfigError

SECRET = "s3cret%40word"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:s3cret@db/mlflow", "postgresql://me:***@db/mlflow"),
        ("redis://:s3cret@cache:6379", "redis://:***@cache:6379"),
        ("http://me:s3%40cret@host:5000/x", "http://me:***@host:5000/x"),
        ("postgresql://me:s3@cr@et@db/mlflow", "postgresql://me:***@db/mlflow"),
        ("postgresql://me:s3/cret@db/mlflow", "postgresql://me:***@db/mlflow"),
        ("mysql://db/x?user=me&password=s3cret&charset=utf8", "mysql://db/x?user=me&password=***&charset=utf8"),
        ("postgresql://db/x?sslmode=on&sslpassword=s3cret", "postgresql://db/x?sslmode=on&sslpassword=***"),
        ("https://host/x?access_token=s3cret#part", "https://host/x?access_token=***#part"),
        ("https://host/x?pass%77ord=s3cret", "https://host/x?pass%77ord=***"),
        ("url: /api?token=s3cret (Caused by ...)", "url: /api?token=*** (Caused by ...)"),
        ("could not connect: host=db password=s3cret user=me", "could not connect: host=db password=*** user=me"),
        ("dsn password='s3 cret' host=db", "dsn password=*** host=db"),
        ("two: http://a:s3cret@x, http://b:s4cret@y", "two: http://a:***@x, http://b:***@y"),
        ("['http://a:s3cret@x','ndcg@10']", "['http://a:***@x','ndcg@10']"),
        ("git clone https://ghp_s3cret@host/x.git", "git clone https://***@host/x.git"),
        ("git+https://ghp_s3cret@host", "git+https://***@host"),
        ("https://ghp_s3cret:x-oauth-basic@host/x", "https://***:***@host/x"),
        ("https://s3cret:@host/x", "https://***:***@host/x"),
        ("Authorization: Bearer s3cret", "Authorization: Bearer ***"),
        ("proxy-authorization: basic czNjcmV0Og==", "proxy-authorization: basic ***"),
        ("{'Authorization': 'Bearer s3cret', 'Accept': '*/*'}", "{'Authorization': 'Bearer ***', 'Accept': '*/*'}"),
        ('{"authorization":"Bearer s3cret"}', '{"authorization":"Bearer ***"}'),
        (r'"{\"Authorization\": \"Bearer s3cret\"}"', r'"{\"Authorization\": \"Bearer ***\"}"'),
        ("[(b'Authorization', b'Basic czNjcmV0')]", "[(b'Authorization', b'Basic ***')]"),
        ("{'Authorization': 's3cret-of-16-char'}", "{'Authorization': '***'}"),
    ],
)
def test_passwords_are_hidden(text: str, shown: str) -> None:
    assert without_password(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/experiments/1/runs/2?metric=ndcg@10",
        "http://127.0.0.1:4200/a@b",
        "sqlite:////home/me/outputs/mlflow.db",
        "postgresql://me@db:5432/mlflow",  # a user alone is no secret of a database
        "postgresql+asyncpg://softgrpo@host/db",
        "ssh://git@host/x.git",
        "authorization: the server refuses it",
        "Bearer authentication is off",
        "ndcg@10 0.1234, recall@20 0.5",
        "policy.max_tokens=512 n_tokens=3",
        "http://host/x?page=2&size=3",
        "warning: no password is set",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert without_password(text) == text


def test_passwords_of_the_environment_are_hidden_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:{SECRET}@db/mlflow")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "softgrpo:other-secret")
    monkeypatch.setenv("PGPASSWORD", "abc")
    header = base64.b64encode(b"me:s3cret@word").decode()
    text = f"raw {SECRET}, read s3cret@word, sent {header}, and other-secret; abcdef"
    assert without_password(text) == "raw ***, read ***, sent ***, and ***; abcdef"  # three letters are in many words


def test_a_token_that_is_the_user_of_a_known_address_is_hidden_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ghp_s3cret@host")
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://somebody@db/mlflow")
    assert without_password("user ghp_s3cret is refused, somebody is not") == "user *** is refused, somebody is not"


def test_pages_are_linked_without_a_login() -> None:
    assert without_login("http://me:s3cret@host:5000/x?y=1") == "http://host:5000/x?y=1"
    assert without_login("https://host/x") == "https://host/x"


def test_errors_of_softgrpo_never_hold_one() -> None:
    error = ConfigError(
        "MLFLOW_TRACKING_URI=http://me:s3cret@host",
        "No http://me:s3cret@host",
        "Not http://me:s3cret@host",
        code="CONFIG-000",
    )
    assert "s3cret" not in f"{error} {error.args} {error.received} {error.rule} {error.remedy}"


class Quoting(Exception):
    """An error as MLflow's: what it says is an attribute."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)

    def __str__(self) -> str:
        return self.message


def test_errors_of_libraries_lose_theirs_with_all_that_led_to_them() -> None:
    inner = OSError("no route to http://me:s3cret@host")
    with pytest.raises(Quoting) as caught, passwords_hidden():
        try:
            raise ValueError(inner)
        except ValueError as error:
            raise Quoting("failed: http://me:s3cret@host?token=s4cret") from error
    error = caught.value
    assert str(error) == "failed: http://me:***@host?token=***"
    assert isinstance(error.__cause__, ValueError) and "s3cret" not in str(error.__cause__)
    error.__cause__.__cause__ = error  # a ring ends too
    scrub(error)


PROGRAM = """
import logging, threading, warnings
from softgrpo.common.redaction import hide_passwords
hide_passwords(); hide_passwords()
logging.basicConfig(level=logging.INFO)
uri = "http://me:s3cret@host"
logging.info("at %s", uri)
warnings.warn("old: " + uri)
try:
    raise ValueError(uri)
except ValueError:
    logging.exception("failed")
thread = threading.Thread(target=int, args=(uri,))
thread.start(); thread.join()
raise RuntimeError(uri)
"""


def test_nothing_that_a_process_logs_warns_or_dies_of_shows_one() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "s3cret" not in done.stdout + done.stderr
    for line in ("INFO:root:at http://me:***@host", "UserWarning: old: http://me:***@host", "ERROR:root:failed"):
        assert line in done.stderr
    assert done.stderr.count("\nValueError: http://me:***@host\n") == 1  # that which was logged
    assert (
        "\nValueError: invalid literal for int() with base 10: 'http://me:***@host'\n" in done.stderr
    )  # of the thread
    assert done.stderr.endswith("RuntimeError: http://me:***@host\n")


@pytest.mark.parametrize("password", ["pa'ssW0RD77", "12/34SECRETX", "a<bSECRETX", "with blank9", 'quo"teSECRET'])
def test_a_password_of_any_letters_in_a_known_variable_is_hidden(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:{password}@127.0.0.1:5000/x?y=1")
    assert password not in without_password(f"no answer from http://user:{password}@127.0.0.1:5000/x?y=1, {password}")


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCESS_KEY", "PREFECT_API_KEY"])
def test_a_token_of_a_known_variable_is_hidden_wherever_it_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hf_abcDEF123456")
    assert without_password("Authorization: Bearer hf_abcDEF123456") == "Authorization: Bearer ***"
