"""Mistakes with the store and with the commands that read it."""

from __future__ import annotations

from tests.mistakes.mistake import Mistake

STORES = (
    Mistake(
        "a store that is a file",
        ("cannot write to the store", "Not a directory"),
        ("notes.txt",),
        ("--dspy-store",),
        files={"notes.txt": "a"},
        arguments=("--dspy-store=notes.txt",),
    ),
    Mistake(
        "a store inside of a file",
        ("cannot write to the store", "Not a directory"),
        ("notes.txt/store",),
        ("--dspy-store",),
        files={"notes.txt": "a"},
        arguments=("--dspy-store=notes.txt/store",),
    ),
    Mistake(
        "frozen, and nothing is there",
        ("not in the store",),
        ("baseline",),
        ("without --dspy-frozen",),
        arguments=("--dspy-frozen",),
    ),
    Mistake(
        "a file to compare with that is no baseline",
        ("no baseline",),
        ("notes.json",),
        ("--dspy-save-baseline",),
        files={"notes.json": "[]"},
        arguments=("--dspy-compare=notes.json",),
    ),
    Mistake(
        "a report with the name of a folder",
        ("that is a folder",),
        ("--dspy-report=", "out.html"),
        ("name a file in it",),
        files={"out.html/readme.txt": "a"},
        arguments=("--dspy-report=out.html",),
    ),
)

COMMANDS = (
    Mistake("a command that is misspelt", ("'raport'",), ("COMMAND",), ("report",), arguments=("raport",)),
    Mistake("a store that is not there", ("does not exist",), ("nowhere",), (".dspy_ft",), arguments=("ls", "nowhere")),
    Mistake(
        "a record that is not there",
        ("cannot be read",),
        ("nowhere.json",),
        ("--dspy-report",),
        arguments=("report", "nowhere.json"),
    ),
    Mistake(
        "an export to nowhere",
        ("-o/--output",),
        ("export",),
        ("required",),
        arguments=("export", "tickets"),
    ),
    Mistake(
        "a record that is none",
        ("no record of a session",),
        ("notes.json",),
        ("--dspy-report",),
        files={"notes.json": "{}"},
        arguments=("report", "notes.json"),
    ),
)
