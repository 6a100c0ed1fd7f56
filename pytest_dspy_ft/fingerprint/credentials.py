"""Credentials are no part of what an object is: told by their well-known names, or by what they look like."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from pytest_dspy_ft.redaction import SECRET_SETTINGS, is_secret, without_password

_KEY_LENGTH = 16

_CREDENTIAL = re.compile(
    r"(^|_)(api_?key|api_?token|auth_?token|access_?token|refresh_?token|bearer_?token|session_?token|ad_token"
    r"|secret_?key|access_?key|access_key_id|private_?key|client_?secret|password|passwd|authorization|credentials?)$"
)

_NAMED_SECRET = re.compile(r"(secret|password|authorization|credential)s?$", re.IGNORECASE)

_KEY_SHAPE = re.compile(r"(sk-|pk-|hf_|gh[opsu]_|glpat-|xox[abp]-|AKIA|AIza|eyJ|Bearer |Basic )[\w.+/=-]{8,}$")

_RANDOM = re.compile(r"(?=(.*\d){3})(?=.*[A-Za-z])[\w+/=.-]{20,}$")

_PASSING_HEADER = re.compile(r"cookie|request-?id|trace|idempotency|date$|timestamp|signature", re.IGNORECASE)


def is_credential(name: str, value: Any) -> bool:
    """True for a setting that is a credential: by its well-known name, or by what its value looks like.

    Unlike ``is_secret``, which hides whatever might be one, it leaves ``sort_key`` and ``stop_token`` what they are.
    """
    if not isinstance(value, (str, bytes)) and type(value).__name__ not in ("SecretStr", "SecretBytes"):
        return False
    if _CREDENTIAL.search(name.lower().replace("-", "_").strip("_")):
        return True
    text = value if isinstance(value, str) else ""
    return bool(_KEY_SHAPE.match(text)) or (is_secret(name) and _looks_random(text))


def _looks_random(text: str) -> bool:
    """Long, without spaces, digits among letters, and no words joined by dashes, dots or underscores."""
    return bool(_RANDOM.match(text)) and max(map(len, re.split(r"[_.-]", text))) >= _KEY_LENGTH


def without_credentials(value: Any) -> Any:
    """Settings of an LM for its identity: as they are, credentials left out, what might be one as a hash.

    Headers count with the hash of their values, but for those that authorize, or differ from call to call.
    """
    if isinstance(value, Mapping):
        kept = {}
        for name, item in value.items():
            if not isinstance(name, str):
                kept[name] = without_credentials(item)
            elif name.endswith("headers") and isinstance(item, Mapping):
                kept |= {name: headers} if (headers := _plain_headers(item)) else {}
            elif not (is_credential(name, item) or name in SECRET_SETTINGS or _NAMED_SECRET.search(name)):
                hashed = is_secret(name) and isinstance(item, (str, bytes))
                kept[name] = _hash(item) if hashed else without_credentials(item)
        return kept
    if isinstance(value, str):
        return without_password(value)
    return [without_credentials(v) for v in value] if isinstance(value, (list, tuple)) else value


def _plain_headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    return {
        str(name).lower(): _hash(value)
        for name, value in headers.items()
        if not (is_secret(str(name)) or is_credential(str(name), value) or _PASSING_HEADER.search(str(name)))
    }


def _hash(value: Any) -> str:
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return f"sha256:{hashlib.sha256(data).hexdigest()[:16]}"
