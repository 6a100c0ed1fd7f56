"""What a build or an evaluation rests on beside its key: the user's code that ran for it, and the state it used."""

from __future__ import annotations

from pytest_dspy_ft.records.base import Record

NOT_COMPARED = ""
"""Stands for the digest of something that running changes, or of a key: it says nothing about what was declared."""


class Footprint(Record):
    """The user's code that ran while an entry of the store was made, as digests; nothing a secret could be read from.

    Functions and values are named by the module they live in: ``ourapp.text:normalize``.
    """

    modules: dict[str, str] = {}
    """The file of each module, seen from the working directory or from where Python finds modules."""
    functions: dict[str, str] = {}
    """Digest of the source of each function that ran."""
    state: dict[str, dict[str, str]] = {}
    """What those functions refer to by name: of each, the digest of what it is (under the empty name) and, where it is
    an object of the user's or a class, of each attribute."""
    unseen: tuple[str, ...] = ()
    """What may matter and cannot be compared, in words."""
    followed: float = 1.0
    """The share of the calls whose code was followed. Of the others, what their code refers to was taken."""
