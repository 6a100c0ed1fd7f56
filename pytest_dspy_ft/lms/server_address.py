"""Addresses of servers: what of one is asked, what is sent as a login, and what may be shown."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from pytest_dspy_ft.errors import ServingError
from pytest_dspy_ft.redaction import plain_address, remember_password, without_password


@dataclass(frozen=True)
class ServerAddress:
    """Where an OpenAI-compatible server is reached."""

    url: str
    """Without login and base model; most end in ``/v1``."""
    model: str = ""
    """Its base model, where ``#MODEL`` names it."""
    login: str = field(default="", repr=False)
    """What the ``Authorization`` header has to be, for ``USER:PASSWORD@`` in the address."""

    @classmethod
    def read(cls, text: str) -> ServerAddress:
        """The address that a text is, such as ``http://gpu:8000/v1`` or ``https://USER:PASSWORD@HOST/team/v1#MODEL``.

        Raises:
            ServingError: If it is none; the message shows no password.
        """
        remember_password(text)
        plain, _, model = text.strip().partition("#")
        try:
            parts = urlsplit(plain)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            shown = without_password(text)
            raise ServingError(f"{shown!r} is no address of a server; http://HOST:PORT/v1 is needed")
        if parts.query:
            raise ServingError(
                f"{without_password(text)!r}: a server's address takes no query; a key is read from DSPY_SERVE_API_KEY"
            )
        login, _, host = parts.netloc.rpartition("@")
        url = f"{parts.scheme}://{host}{parts.path}".rstrip("/")
        basic = f"Basic {b64encode(unquote(login).encode()).decode()}" if login else ""
        return cls(url, model, basic)

    @property
    def root(self) -> str:
        """The address without ``/v1``, below which SGLang loads adapters."""
        return self.url.removesuffix("/v1")

    def identity(self) -> dict[str, str]:
        """Part of the key of an evaluation made there alone: its numbers differ from those made here."""
        return {"address": str(plain_address(self.root)), "model": self.model}
