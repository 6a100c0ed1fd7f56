"""Keys and passwords never leave: texts, settings, logs, records and files."""

from __future__ import annotations

import io
import json
import logging
from base64 import b64encode
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft.errors import BuildError
from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.fingerprint import lm_identity
from pytest_dspy_ft.records.evaluation import ExampleResult
from pytest_dspy_ft.redaction import redact, redacted_logs, remember_secrets_of, without_password, without_secrets

KEY = "sk-planted-0123456789"
PASSWORD = "planted%21PASS"


@pytest.fixture(autouse=True)
def no_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_dspy_ft.redaction._known", set())
    monkeypatch.setattr("pytest_dspy_ft.redaction._looked", None)


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        ("http://user:pass@host:8000/v1", "http://host:8000/v1"),
        ("https://ghp-token@host/v1?api-version=2024-06-01", "https://host/v1?api-version=2024-06-01"),
        ("https://host/v1?api_key=0123456789&api-version=1", "https://host/v1?api-version=1"),
        ("http://user:p@ss@host/v1", "http://host/v1"),
    ],
)
def test_a_password_is_no_part_of_what_an_lm_is(address: str, plain: str) -> None:
    assert without_password(address) == plain
    assert without_secrets({"proxies": [{"url": address}]}) == {"proxies": [{"url": plain}]}
    identities = [lm_identity(dspy.LM("openai/gpt-4o-mini", api_base=base)) for base in (address, plain)]
    assert identities[0] == identities[1]


@pytest.mark.parametrize(
    "text",
    [
        "http://host/v1",
        "https://host:1/v1/?api-version=1#x",
        "write to a@b.org",
        "see http://a/b?x=1 and a@b",
        "",
        "://@",
    ],
)
def test_other_settings_stay_as_they_are(text: str) -> None:
    assert without_password(text) == text


@pytest.mark.parametrize("place", ["api_base", "base_url", "in a body", "environment"])
def test_every_form_of_a_password_is_hidden(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://someone:{PASSWORD}@host/v1?access_token={KEY}"
    settings: dict[str, Any] = {"extra_body": {"routes": [address]}} if place == "in a body" else {place: address}
    if place == "environment":
        monkeypatch.setenv("OPENAI_BASE_URL", address)
    else:
        remember_secrets_of(dspy.LM("openai/gpt-4o-mini", **settings))
    for secret in (PASSWORD, "planted!PASS", KEY, b64encode(b"someone:planted!PASS").decode()):
        assert redact(f"<{secret}>") == "<***>"
    assert redact(f"cannot reach {address}") == "cannot reach http://***@host/v1?access_token=***"


def test_a_short_password_is_hidden_in_its_address_only() -> None:
    remember_secrets_of(dspy.LM("openai/gpt-4o-mini", api_base="http://me:cat@host/v1"))
    assert "cat" not in redact("cannot reach http://me:cat@host/v1")
    assert redact("a cat is a category") == "a cat is a category"


@pytest.mark.parametrize(
    "name", ["OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "PGPASSWORD"]
)
def test_keys_of_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, KEY)
    assert redact(f"got {KEY}") == "got ***"


def test_records_errors_and_files_hold_no_key(tmp_path: Path) -> None:
    quoted = 'pl"anted\\0123456789'
    remember_secrets_of(dspy.LM("openai/gpt-4o-mini", api_key=quoted, extra_headers={"X": f"Bearer {KEY}"}))
    record = ExampleResult(id="1", score=1.0, prediction={"label": [{f"said {KEY}": f"{quoted}!"}]}, error=KEY)
    assert record.prediction == {"label": [{"said ***": "***!"}]}
    assert record.error == "***"
    assert str(BuildError(f"refused {KEY}")) == "refused ***"
    write_atomically(tmp_path / "a.json", json.dumps({"said": [quoted, KEY]}))
    assert json.loads((tmp_path / "a.json").read_text()) == {"said": ["***", "***"]}


def test_logged_tracebacks_and_stacks_hold_no_key() -> None:
    remember_secrets_of(dspy.LM("openai/gpt-4o-mini", api_key=KEY))
    logger, stream = logging.getLogger("planted"), io.StringIO()
    handler = logging.StreamHandler(stream)
    kept: list[logging.LogRecord] = []
    keeper = logging.Handler()
    keeper.emit = kept.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.addHandler(keeper)
    try:
        with redacted_logs():
            try:
                try:
                    raise ValueError(f"sent {KEY}")
                except ValueError as cause:
                    raise RuntimeError("failed") from cause
            except RuntimeError:
                logger.exception("it failed")
                logger.error("it failed", exc_info=True, stack_info=True)
            try:
                raise RuntimeError("nothing secret")
            except RuntimeError:
                logger.exception("it failed")
    finally:
        logger.removeHandler(handler)
        logger.removeHandler(keeper)
    shown = stream.getvalue()
    assert KEY not in shown
    assert shown.count("ValueError: sent ***") == 2
    assert "RuntimeError: nothing secret" in shown
    assert all(KEY not in logging.Formatter().format(record) for record in kept)
    assert kept[2].exc_info is not None  # where there is nothing to hide, handlers get what they always get


def test_a_key_that_appears_while_a_session_runs_is_hidden_in_the_next_record(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = dspy.LM("openai/gpt-4o-mini", extra_headers={})

    def recorded(key: str) -> str | None:
        remember_secrets_of(lm)  # as before every call
        return ExampleResult(id="1", score=0.0, error=f"said {key}.").error

    overwritten, given, header = (f"{KEY[:-1]}{letter}" for letter in "abc")
    assert recorded(KEY) == f"said {KEY}."
    monkeypatch.setenv("SOME_API_KEY", KEY)
    assert recorded(KEY) == "said ***."
    monkeypatch.setenv("SOME_API_KEY", overwritten)
    assert recorded(overwritten) == "said ***."
    assert recorded(given) == f"said {given}."
    lm.kwargs["api_key"] = given
    assert recorded(given) == "said ***."
    lm.kwargs["extra_headers"]["x-custom"] = header
    assert recorded(header) == "said ***."


def test_what_the_environment_holds_now_is_hidden_now(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"said {KEY}"
    assert redact(text) == text
    monkeypatch.setenv("SOME_API_KEY", KEY)
    assert redact(text) == "said ***"
    monkeypatch.setenv("SOME_API_KEY", KEY[::-1])
    assert redact(text) == text
    monkeypatch.setattr("os.environ", {"SOME_API_KEY": KEY})
    assert redact(text) == "said ***"
