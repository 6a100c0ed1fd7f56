"""Keys never leave: what is secret, and text with every key that this process knows replaced by ``***``."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

SECRET_SETTINGS = frozenset({"api_key", "azure_ad_token", "aws_access_key_id", "aws_secret_access_key", "headers"})

_SECRET_NAME = re.compile(r"(key|token|secret|password|authorization|credential)s?$", re.IGNORECASE)

_COUNTS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})


def is_secret(name: str) -> bool:
    """True for a setting whose value must never be written down."""
    return name in SECRET_SETTINGS or (name not in _COUNTS and bool(_SECRET_NAME.search(name)))


def without_secrets(value: Any) -> Any:
    """Settings without the secrets in them, at any depth; headers may hold one under any name."""
    if isinstance(value, Mapping):
        return {
            k: without_secrets(v)
            for k, v in value.items()
            if not (isinstance(k, str) and (is_secret(k) or k.endswith("headers")))
        }
    return [without_secrets(v) for v in value] if isinstance(value, (list, tuple)) else value


_KEY_VARIABLE = re.compile(r"(API_?KEY|TOKEN|SECRET|PASSWORD)S?$", re.IGNORECASE)

_PLACEHOLDERS = frozenset({"", "none", "null", "empty", "dummy", "local", "nothing"})

_KEY_LENGTH = 8
"""A shorter value is no key, and hiding it everywhere would garble text."""


def plain_address(address: Any) -> str | None:
    """An address without what may be secret in it: user, password, query."""
    if not address:
        return None
    from urllib.parse import urlsplit, urlunsplit

    parts = urlsplit(str(address))
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


# --- keys never leave -------------------------------------------------------------------------------------------------

_known: set[str] = set()


def remember_secret(value: Any) -> None:
    """Have a key hidden by :func:`redact` from now on: one given to an LM rather than set in the environment."""
    if isinstance(value, str) and _may_be_key(value):
        _known.add(value)


def remember_secrets_of(lm: Any) -> None:
    """Have an LM's key, and whatever else in its settings is secret, hidden by :func:`redact`."""
    for name, value in getattr(lm, "kwargs", {}).items():
        if isinstance(value, dict) and name.endswith("headers"):
            for header in value.values():
                remember_secret(header)
                remember_secret(str(header).removeprefix("Bearer "))
        elif is_secret(name):
            remember_secret(value)


def redact(text: str) -> str:
    """The text with every key that this process knows replaced by ``***``: a provider may echo what it was sent."""
    for secret in sorted({*_known, *_in_environment()}, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, "***")
    return text


@contextlib.contextmanager
def redacted_logs() -> Iterator[None]:
    """Hide keys in whatever is logged inside the block: DSPy logs what providers answer as it comes."""
    before = logging.getLogRecordFactory()

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        with contextlib.suppress(Exception):  # a message that does not fit its arguments is for logging to report
            said = record.getMessage()
            if (clean := redact(said)) != said:
                record.msg, record.args = clean, ()
        return record

    logging.setLogRecordFactory(make)
    try:
        yield
    finally:
        if logging.getLogRecordFactory() is make:
            logging.setLogRecordFactory(before)


def _in_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if _KEY_VARIABLE.search(name) and _may_be_key(value):
            yield value


def _may_be_key(value: str) -> bool:
    return len(value) >= _KEY_LENGTH and value.lower() not in _PLACEHOLDERS
