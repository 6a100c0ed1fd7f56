"""An object's description, its fingerprint, and the identity of an LM: the ways into the walk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pytest_dspy_ft.fingerprint.programs import ProgramWalk


@dataclass(frozen=True)
class Description:
    """What an object is, and what of it could not be seen."""

    content: Any
    """Canonical JSON."""
    unseen: tuple[str, ...] = ()
    """Parts that the content holds by their type only: where they are, what they are, and why."""


def describe(value: object, *, with_lms: bool = False) -> Description:
    """Describe any object as JSON that is equal for equal work, and say what of it could not be seen.

    Args:
        value: Anything. Nothing of its code runs, but for ``__dspy_ft_key__()`` and the serializers of pydantic models.
        with_lms: Also describe the LMs of the predictors of a program that is described itself. Elsewhere (in a metric,
            a tool, a global of a function) predictors always bring theirs.
    """
    walk = ProgramWalk(bare=not with_lms)
    content = walk.describe(value)
    return Description(content, tuple(sorted(walk.unseen)))


def canonical(value: object) -> Any:
    """Describe any object as a JSON value that is equal for equal work."""
    return describe(value).content


def fingerprint(value: object, *, length: int = 32, with_lms: bool = False) -> str:
    """Hash of a description: ``length`` hexadecimal digits of its SHA-256; ``with_lms`` as for :func:`describe`."""
    return digest_json(describe(value, with_lms=with_lms).content, length=length)


def digest_json(value: object, *, length: int = 32) -> str:
    """Hash of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def lm_identity(lm: Any) -> dict[str, Any]:
    """The identity of an LM: model, settings, address, engine, and what a class of the user's adds; never a secret.

    Args:
        lm: A ``dspy.BaseLM``.

    Returns:
        A JSON object. Training settings are not part of it: they belong to the stage that trains.
    """
    return ProgramWalk().lm(lm)
