"""An ``openai`` client for a DSPy LM: with that LM's own key, address and timeout, and nobody else's.

DSPy reads an LM's address from its settings or from the environment; so do these clients, by the same names and in the
same order, so that a model is trained where it answers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pytest_dspy_ft.errors import LMError

if TYPE_CHECKING:
    import httpx
    import openai

OPENAI_ADDRESS = "https://api.openai.com/v1"
TIMEOUT_SECONDS = 60.0
"""For one request, where an LM has no ``timeout`` of its own."""
AZURE_API_VERSION = "2024-10-21"

_KEYS = {"openai": ("OPENAI_API_KEY",), "azure": ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY")}
_ADDRESSES = {"openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE"), "azure": ("AZURE_API_BASE", "AZURE_OPENAI_ENDPOINT")}
_AZURE_TOKENS = ("AZURE_AD_TOKEN", "AZURE_OPENAI_AD_TOKEN")
_AZURE_VERSIONS = ("AZURE_API_VERSION", "OPENAI_API_VERSION")


def is_hosted_model(model: str) -> bool:
    """True where a model is reached over the OpenAI API, at OpenAI, on Azure or at a compatible server's address."""
    return model.startswith(("openai/", "azure/", "ft:"))


def bare_model(model: str) -> str:
    """A model's name as the API knows it: without DSPy's ``openai/`` or ``azure/``."""
    return re.sub(r"^(openai|azure)/", "", model)


@dataclass(frozen=True)
class Access:
    """How an LM is reached. Its text shows no secret."""

    vendor: Literal["openai", "azure"]
    address: str
    """Where requests go, without any user name, password or query in it."""
    key_source: str
    """Where the key comes from, in words: ``api_key of the LM`` or an environment variable's name."""
    _base_url: str = field(repr=False)
    _key: str | None = field(repr=False)
    _token: Any = field(default=None, repr=False)
    _settings: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def official(self) -> bool:
        """True for OpenAI itself, rather than Azure or a compatible server."""
        return self.vendor == "openai" and urlsplit(self._base_url).hostname in ("api.openai.com", "eu.api.openai.com")

    def require_key(self) -> None:
        """Check that there is a key; it is not checked whether it is right.

        Raises:
            LMError: Naming the variable to set.
        """
        if self._key or self._token:
            return
        variable = _KEYS[self.vendor][0]
        elsewhere = "" if self.official else " (any text, where the server asks for none)"
        raise LMError(
            f"no key for {self.address}: set the environment variable {variable}{elsewhere}, or give the LM api_key=..."
        )

    def scrub(self, text: str) -> str:
        """A text without the key, the token, or what the address may hide, should a server have echoed them."""
        hidden = [self._key, self._token, urlsplit(self._base_url).password]
        hidden += [v for k, v in self._settings.get("default_headers", {}).items() if len(str(v)) >= 8]
        for secret in hidden:
            if isinstance(secret, str) and secret:
                text = text.replace(secret, "[secret]")
        return text

    def client(self, http_client: httpx.Client | None = None) -> openai.OpenAI:
        """A client that makes each request once: when to try again is for ``retries.py`` to say."""
        import openai

        self.require_key()
        common: dict[str, Any] = {"max_retries": 0, "http_client": http_client, **self._settings}
        if self.vendor == "azure":
            token = "azure_ad_token_provider" if callable(self._token) else "azure_ad_token"
            # An endpoint of Azure's portal, or the root of a gateway: the client adds /openai itself.
            endpoint = re.sub(r"/openai(/v1)?/?$", "", self._base_url.rstrip("/"))
            return openai.AzureOpenAI(azure_endpoint=endpoint, api_key=self._key, **{token: self._token}, **common)
        return openai.OpenAI(base_url=self._base_url, api_key=self._key, **common)


def access_of(lm: Any) -> Access:
    """How an LM is reached: its own settings first, then the environment.

    Raises:
        LMError: If it is an Azure LM without an address.
    """
    settings: Mapping[str, Any] = getattr(lm, "kwargs", {})
    vendor: Literal["openai", "azure"] = "azure" if str(lm.model).startswith("azure/") else "openai"
    base = settings.get("api_base") or settings.get("base_url") or _environment(_ADDRESSES[vendor])
    if base is None and vendor == "azure":
        raise LMError(
            f"no address for {lm.model!r}: set the environment variable AZURE_API_BASE "
            "(https://RESOURCE.openai.azure.com), or give the LM api_base=..."
        )
    base = str(base or OPENAI_ADDRESS)
    key, source = settings.get("api_key"), "api_key of the LM"
    if not key:
        source = next((name for name in _KEYS[vendor] if os.environ.get(name)), _KEYS[vendor][0])
        key = os.environ.get(source)
    token = None
    if vendor == "azure" and not key:
        token = settings.get("azure_ad_token_provider") or settings.get("azure_ad_token") or _environment(_AZURE_TOKENS)
    timeout = settings.get("timeout")
    more: dict[str, Any] = {"timeout": TIMEOUT_SECONDS if timeout is None else timeout}
    more |= {name: settings[name] for name in ("organization", "project") if settings.get(name)}
    if headers := {**(settings.get("headers") or {}), **(settings.get("extra_headers") or {})}:
        more["default_headers"] = headers
    if query := settings.get("extra_query"):
        more["default_query"] = query
    if vendor == "azure":
        more["api_version"] = settings.get("api_version") or _environment(_AZURE_VERSIONS) or AZURE_API_VERSION
        more.pop("project", None)
    return Access(vendor, _shown(base), source, base, key, token, more)


def _environment(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _shown(address: str) -> str:
    """An address fit to be written down: user name, password and query may be secrets."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit((parts.scheme, host + port, parts.path.rstrip("/"), "", ""))
