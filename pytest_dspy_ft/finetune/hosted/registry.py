"""Which service trains an LM: told by the LM's name, its address, or ``train_kwargs={"service": ...}``.

Others are added by the entry point group ``pytest_dspy_ft.training_services``: an entry point's name is the service's,
and what it gives is a :class:`Vendor`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.finetune.hosted.port import TrainingService
from pytest_dspy_ft.text import did_you_mean

GROUP: Final = "pytest_dspy_ft.training_services"

OPENAI_ADDRESS_VARIABLES: Final = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
_HERE: Final = "pytest_dspy_ft.finetune.hosted"
_SERVICES: Final[dict[str, str]] = {
    "openai": f"{_HERE}.openai_api.service:OpenAIService",
    "azure": f"{_HERE}.openai_api.azure:AzureService",
    "nebius": f"{_HERE}.openai_api.nebius:NebiusService",
    "crusoe": f"{_HERE}.openai_api.crusoe:CrusoeService",
    "together": f"{_HERE}.together_api.service:TogetherService",
    "tinker": f"{_HERE}.tinker_api.service:TinkerService",
}
"""By name, a class that makes the service of an LM: ``(lm, http_client=None)``."""
_PREFIXES: Final[dict[str, str]] = {
    "openai/": "openai",
    "ft:": "openai",
    "azure/": "azure",
    "nebius/": "nebius",
    "together_ai/": "together",
    "together/": "together",
}
"""How the names of its LMs begin."""
_HOSTS: Final[dict[str, str]] = {
    "nebius.com": "nebius",
    "nebius.ai": "nebius",
    "crusoecloud.com": "crusoe",
    "together.ai": "together",
    "together.xyz": "together",
    "thinkingmachines.dev": "tinker",
}
"""Services that speak OpenAI's API, by the end of their host's name."""


class Vendor(Protocol):
    """What an entry point gives: a module, a class or an object with these two functions."""

    def claims(self, model: str, address: str | None) -> bool:
        """True for an LM of this model, at this address, that is trained there."""
        ...

    def service(self, lm: Any, http_client: Any = None) -> TrainingService:
        """The service that trains an LM.

        Args:
            lm: Its key, address and timeout count.
            http_client: Connections to use, where tests give some.
        """
        ...


def service_name(lm: Any, train_kwargs: Mapping[str, Any] | None = None) -> str | None:
    """The name of the service that trains an LM; None where it is trained here, or nowhere that we know.

    Raises:
        TrainingError: If ``train_kwargs`` name one that there is not.
    """
    asked = (train_kwargs or {}).get("service")
    if asked is not None:
        if asked not in _SERVICES and asked not in _vendors():
            choices = sorted({*_SERVICES, *_vendors()})
            near = did_you_mean(str(asked), choices)
            raise TrainingError(
                f"train_kwargs={{'service': {asked!r}}}: no such service{near}; choose from {', '.join(choices)}"
            )
        return str(asked)
    model = str(getattr(lm, "model", ""))
    name = next((name for prefix, name in _PREFIXES.items() if model.startswith(prefix)), None)
    address = _address(lm, "openai" if name == "openai" else "")
    if name == "openai":
        host = urlsplit(str(address or "")).hostname or ""
        name = next((n for end, n in _HOSTS.items() if host == end or host.endswith(f".{end}")), name)
    if name in (None, "openai") and _vendors():
        return next((n for n, vendor in _vendors().items() if vendor.claims(model, address)), name)
    return name


def service_for(
    lm: Any, train_kwargs: Mapping[str, Any] | None = None, http_client: Any = None
) -> TrainingService | None:
    """The service that trains an LM; None where :func:`service_name` knows none.

    Raises:
        LMError: If the LM has no address, where it needs one.
        TrainingError: If ``train_kwargs`` name a service that there is not.
    """
    name = service_name(lm, train_kwargs)
    if name is None:
        return None
    if name not in _SERVICES:
        return _vendors()[name].service(lm, http_client)
    module, _, made = _SERVICES[name].partition(":")
    return cast(TrainingService, getattr(importlib.import_module(module), made)(lm, http_client))


def is_hosted(lm: Any, train_kwargs: Mapping[str, Any] | None = None) -> bool:
    """True where a service elsewhere trains an LM."""
    return service_name(lm, train_kwargs) is not None


def _address(lm: Any, vendor: str) -> str | None:
    """The address that an LM's settings, or the environment, give."""
    settings = getattr(lm, "kwargs", None) or {}
    found = settings.get("api_base") or settings.get("base_url")
    variables = OPENAI_ADDRESS_VARIABLES if vendor == "openai" else ()
    return found or next((value for name in variables if (value := os.environ.get(name))), None)


@cache
def _vendors() -> dict[str, Vendor]:
    """The services of other packages, by name.

    Raises:
        TrainingError: If one does not load.
    """
    found: dict[str, Vendor] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            found[entry.name] = entry.load()
        except Exception as error:
            raise TrainingError(
                f"the training service {entry.name!r} ({entry.value}) does not load: {type(error).__name__}: {error}"
            ) from error
    return found
