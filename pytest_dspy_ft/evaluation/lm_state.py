"""The LMs that an optimizer put on a program: kept by what they are, without their keys, and found or made again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

import dspy

from pytest_dspy_ft.evaluation.anatomy import lm_node
from pytest_dspy_ft.evaluation.values import Path, Reader, UnkeptError, Writer
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.redaction import is_no_key, is_secret, without_secrets

_DECLARE: Final = "make the LM a global of the module that the optimizer is in"
_TRAITS: Final = ("model_type", "cache", "num_retries", "use_developer_role")


def write_lm(lm: Any, declared: Iterable[Any], path: Path) -> dict[str, Any]:
    """An LM as JSON: which of the declared ones it is, or a copy of which, or how it is made.

    Args:
        lm: The LM.
        declared: The LMs that what is declared leads to.
        path: Where it stands.

    Raises:
        UnkeptError: If it could not be found or made again with the same settings, at the same address.
    """
    known, node = list(declared), lm_node(lm)
    for other in known:
        if (other is lm or lm_node(other) == node) and secret_settings(other) == secret_settings(lm):
            return {"declared": digest_json(lm_node(other), length=16)}
    for other in known:
        if type(other) is type(lm) and secret_settings(other) == secret_settings(lm):
            settings = _changed_settings(other, lm, path)
            if lm_node(_copied(other, lm.model, settings)) == node:
                return {"copy": digest_json(lm_node(other), length=16), "model": lm.model, "settings": settings}
    return {"new": _write_new(lm, path)}


def read_lm(written: dict[str, Any], declared: Iterable[Any]) -> Any:
    """The LM that :func:`write_lm` wrote.

    Raises:
        ValueError: If it is declared no more.
    """
    if "new" in written:
        return _read_new(written["new"])
    wanted = written.get("declared", written.get("copy"))
    for lm in declared:
        if digest_json(lm_node(lm), length=16) == wanted:
            return lm if "declared" in written else _copied(lm, written["model"], written["settings"])
    raise ValueError("an LM that its optimizer put on the program is declared no more")


def _changed_settings(other: Any, lm: Any, path: Path) -> dict[str, Any]:
    """The settings in which an LM differs from another one, as tagged JSON; None for one that it lacks."""
    mine, theirs = settings_of(lm), settings_of(other)
    try:
        changed = {name: Writer().write(v, path) for name, v in mine.items() if name not in theirs or theirs[name] != v}
    except UnkeptError:
        return {}
    return {**changed, **{name: None for name in theirs if name not in mine}}


def settings_of(lm: Any) -> dict[str, Any]:
    """The settings of an LM, without its keys and headers."""
    traits = {name: getattr(lm, name) for name in _TRAITS if hasattr(lm, name)}
    return {**traits, **{n: value for n, value in lm.kwargs.items() if not _secret(n) and value is not None}}


def secret_settings(lm: Any) -> dict[str, Any]:
    """The keys and headers among an LM's settings."""
    return {name: value for name, value in lm.kwargs.items() if _secret(name) and value is not None}


def _secret(name: str) -> bool:
    return is_secret(name) or name.endswith("headers")


def _copied(lm: Any, model: str, settings: dict[str, Any]) -> Any:
    return lm.copy(model=model, **{name: Reader(lambda _: None).read(value) for name, value in settings.items()})


def _write_new(lm: Any, path: Path) -> dict[str, Any]:
    if type(lm) is not dspy.LM or not isinstance(lm.engine, str):
        raise UnkeptError(
            path,
            f"the LM {lm.model!r} has a class or an engine of its own and is declared nowhere; {_DECLARE}",
        )
    settings = settings_of(lm)
    if without_secrets(settings) != settings:
        raise UnkeptError(path, f"settings or address of the LM {lm.model!r} hold a key; {_DECLARE}")
    keys = {name: _write_key(lm, name, value, path) for name, value in secret_settings(lm).items()}
    if "max_completion_tokens" in settings:
        settings["max_tokens"] = settings.pop("max_completion_tokens")  # DSPy's name for it is still the old one
    return {"model": lm.model, "keys": keys, "settings": Writer().write(settings, path)}


def _write_key(lm: Any, name: str, key: Any, path: Path) -> dict[str, str]:
    """Where a key is found again: it is never kept."""
    if isinstance(key, str) and is_no_key(key):
        return {"placeholder": key}
    for variable in sorted(os.environ):
        if os.environ[variable] == key:
            return {"environment": variable}
    raise UnkeptError(
        path,
        f"{name} of the LM {lm.model!r} stands in no environment variable and in no declared LM, and keys are never "
        f"kept; read it from one, or {_DECLARE}",
    )


def _read_new(written: dict[str, Any]) -> Any:
    settings = Reader(lambda _: None).read(written["settings"])
    for name, where in written["keys"].items():
        if "placeholder" in where:
            settings[name] = where["placeholder"]
        elif where["environment"] in os.environ:
            settings[name] = os.environ[where["environment"]]
        else:
            raise ValueError(
                f"the environment variable {where['environment']}, which holds a key of its LM, is not set"
            )
    return dspy.LM(written["model"], **settings)
