"""What an object *is*, as canonical JSON and a hash of it: the raw material of the store's keys.

Two objects have one fingerprint when they would do the same work: a function is its source without comments and
formatting, its defaults, its closure, and the user's functions and constants it refers to; an LM is its model and
settings without secrets; a program is its classes, prompts, demos and settings. Process, machine, memory addresses and
field order never matter. Code of others is known by its name alone, and live things (locks, clients, loggers) by their
type; :func:`describe` lists what was not seen.

An object may define ``__dspy_ft_key__()``, returning anything this room understands, to speak for itself. An
installed class that moves keeps the name that keys know it by in ``__dspy_ft_name__``.
"""

from pytest_dspy_ft.fingerprint.describe import (
    Description,
    canonical,
    describe,
    digest_json,
    fingerprint,
    lm_identity,
)
from pytest_dspy_ft.fingerprint.origin import is_user_code

__all__ = ["Description", "canonical", "describe", "digest_json", "fingerprint", "is_user_code", "lm_identity"]
