"""Keys never leave: what is secret, and text with every key that this process knows replaced by ``***``."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

HIDDEN = "***"
"""Stands in the place of a key."""

SECRET_SETTINGS = frozenset({"api_key", "azure_ad_token", "aws_access_key_id", "aws_secret_access_key", "headers"})

_SECRET_NAME = re.compile(r"(key|token|secret|password|authorization|credential)s?$", re.IGNORECASE)

_COUNTS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})


@functools.lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """True for a setting whose value must never be written down."""
    return name in SECRET_SETTINGS or (name not in _COUNTS and bool(_SECRET_NAME.search(name)))


def without_secrets(value: Any) -> Any:
    """Settings without the secrets in them, at any depth; headers may hold one under any name, addresses a password."""
    if isinstance(value, Mapping):
        return {
            k: without_secrets(v)
            for k, v in value.items()
            if not (isinstance(k, str) and (is_secret(k) or k.endswith("headers")))
        }
    if isinstance(value, str):
        return without_password(value)
    return [without_secrets(v) for v in value] if isinstance(value, (list, tuple)) else value


_KEY_VARIABLE = re.compile(
    r"((API|ACCESS|SECRET|PRIVATE)_?KEY|ACCESS_KEY_ID|TOKEN|SECRET|PASSWORD|PASSWD)S?$", re.IGNORECASE
)

_LOGIN = re.compile(r"[a-z][a-z0-9+.-]*://([^/\s?#]*)@", re.IGNORECASE)
"""An address with a user in it, or a user and a password."""

_PLACEHOLDERS = frozenset(
    {"", "none", "null", "empty", "dummy", "local", "nothing", "not-needed", "not_needed", "no-key", "no-key-required"}
    | {"sk-no-key-required"}
)

_NUMBERS = frozenset({int, float, bool})

_KEY_LENGTH = 8
"""A shorter value is no key, and hiding it everywhere would garble text."""


def without_password(text: str) -> str:
    """A text that is an address without the user, password and keys in it; any other text, and address, as it is."""
    if not _LOGIN.match(text) and not any(True for _ in _secrets_of_query(text)):
        return text
    parts = urlsplit(text)
    query = "&".join(pair for pair in parts.query.split("&") if not is_secret(pair.partition("=")[0]))
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, parts.fragment))


def plain_address(address: Any) -> str | None:
    """An address without what may be secret in it: user, password, query."""
    if not address:
        return None
    parts = urlsplit(str(address))
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


# --- keys never leave -------------------------------------------------------------------------------------------------

_known: set[str] = set()


def remember_secret(value: Any) -> None:
    """Have a key hidden by :func:`redact` from now on: one given to an LM rather than set in the environment."""
    if isinstance(value, str) and _may_be_key(value):
        _known.add(value)


def remember_password(address: Any) -> None:
    """Have an address's user and password, and the keys in its query, hidden by :func:`redact`."""
    if isinstance(address, str) and "://" in address:
        _known.update(_secrets_of_address(address))


def remember_secrets_of(lm: Any) -> None:
    """Have an LM's key, and whatever else in its settings is secret, hidden by :func:`redact`."""
    global _looked
    _looked = None  # it is about to be called, with what is in the environment now
    _remember_within(getattr(lm, "kwargs", {}))


def _remember_within(value: Any, secret: bool = False) -> None:
    """Remember what is secret in settings: by its name, by being a header, or as the password of an address."""
    if isinstance(value, str):
        remember_password(value)
        if secret:
            remember_secret(value)
            remember_secret(value.removeprefix("Bearer ").removeprefix("Basic "))
    elif isinstance(value, (dict, Mapping)):
        for name, item in value.items():
            if item is not None and type(item) not in _NUMBERS:
                named = isinstance(name, str) and (is_secret(name) or name.endswith("headers"))
                _remember_within(item, secret or named)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _remember_within(item, secret)


def redact(text: str) -> str:
    """The text with every key that this process knows replaced by ``***``: a provider may echo what it was sent."""
    return _hide(text, _all_secrets())


def redact_often(text: str) -> str:
    """:func:`redact` for texts that come by the thousand: it looks for new keys in the environment once a second."""
    global _looked
    now, looked = time.monotonic(), _looked  # another thread may have it looked at anew meanwhile
    if looked is None or now - looked[0] > _LOOK_AGAIN_SECONDS or looked[1] != len(_known):
        _looked = looked = now, len(_known), _all_secrets()
    return _hide(text, looked[2])


_LOOK_AGAIN_SECONDS = 1.0

_looked: tuple[float, int, list[str]] | None = None
"""When the environment was looked at, how many keys were known besides, and all that is secret."""


_gathered: tuple[set[str], dict[Any, Any], list[str]] | None = None
"""The keys that were known besides the environment, that environment, and all that is secret by the two."""


def _all_secrets() -> list[str]:
    """All that is secret now, also as it stands inside JSON; the longest first.

    It is gathered anew where a key may have come or gone since the last time: to compare two dicts takes a hundredth of
    reading one for keys, and pytest changes a variable that holds none with every phase of a test.
    """
    global _gathered
    environment = getattr(os.environ, "_data", os.environ)  # as the system holds it: `os.environ` decodes what it shows
    found = _gathered
    if found is None or found[0] != _known or found[1] != environment:
        known, environment = set(_known), dict(environment)  # first: what changes meanwhile is seen the next time
        if found is not None and found[0] == known and not _may_change_keys(found[1], environment):
            ordered = found[2]
        else:
            secrets = {*known, *(secret for name, value in os.environ.items() for secret in _in_variable(name, value))}
            ordered = sorted(secrets | {json.dumps(secret)[1:-1] for secret in secrets}, key=len, reverse=True)
        _gathered = found = known, environment, ordered
    return found[2]


def _hide(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, HIDDEN)
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
        with contextlib.suppress(Exception):  # a traceback that cannot be written out is for logging to report, too
            _redact_traceback(record)
        return record

    logging.setLogRecordFactory(make)
    try:
        yield
    finally:
        if logging.getLogRecordFactory() is make:
            logging.setLogRecordFactory(before)


def _redact_traceback(record: logging.LogRecord) -> None:
    """Hide keys in a log record's traceback and stack: where it holds one, only its text is handed on."""
    if record.stack_info:
        record.stack_info = redact(record.stack_info)
    if record.exc_info and record.exc_info[0] is not None:
        written = logging.Formatter().formatException(record.exc_info)
        if (clean := redact(written)) != written:
            record.exc_text, record.exc_info = clean, None


_names_a_key = functools.cache(lambda name: bool(_KEY_VARIABLE.search(name)))


def _may_change_keys(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> bool:
    """True where variables of two environments, as the system holds them, differ that have a key in them."""
    differing = before.items() ^ after.items()
    return any(True for name, value in differing for _ in _in_variable(_decoded(name), _decoded(value)))


def _decoded(value: str | bytes) -> str:
    return value if isinstance(value, str) else os.fsdecode(value)


def _in_variable(name: str, value: str) -> Iterator[str]:
    """The keys in a variable of the environment."""
    if _names_a_key(name) and _may_be_key(value):
        yield value
    elif "://" in value:
        yield from _secrets_of_address(value)


def _secrets_of_address(text: str) -> Iterator[str]:
    """User, password and keys of the addresses in a text, in every form in which a message may show them."""
    for found in _LOGIN.finditer(text):
        login = found.group(1)
        for form in {login, unquote(login)}:
            user, _, password = form.partition(":")
            secret = password or user
            if _may_be_key(secret):
                yield secret
            yield form if _may_be_key(form) else f"//{form}@"  # alone, a short one would garble other text
            if password:
                yield b64encode(form.encode()).decode()  # as the header for it holds them
    yield from _secrets_of_query(text)


def _secrets_of_query(text: str) -> Iterator[str]:
    if "://" in text and "?" in text:
        with contextlib.suppress(ValueError):  # no address after all
            for name, value in parse_qsl(urlsplit(text).query):
                if is_secret(name) and _may_be_key(value):
                    yield value


def is_no_key(value: str) -> bool:
    """True for what stands in a key's place where a server asks for none."""
    return not _may_be_key(value)


def _may_be_key(value: str) -> bool:
    return len(value) >= _KEY_LENGTH and value.lower() not in _PLACEHOLDERS
