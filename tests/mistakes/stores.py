"""Mistakes with the store and with the commands that read it."""

from __future__ import annotations

from tests.mistakes.mistake import Mistake

STORES = (
    Mistake(
        "a store that is a file",
        ("not a folder",),
        ("notes.txt",),
        ("--dspy-store",),
        files={"notes.txt": "a"},
        arguments=("--dspy-store=notes.txt",),
    ),
    Mistake(
        "a store inside of a file",
        ("notes.txt",),
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
        "a report in a folder that is not there",
        ("no such folder",),
        ("reports/out.html",),
        ("reports",),
        arguments=("--dspy-report=reports/out.html",),
    ),
)

COMMANDS = (
    Mistake("a command that is misspelt", ("'raport'",), ("COMMAND",), ("report",), arguments=("raport",)),
    Mistake("a store that is not there", ("no store",), ("nowhere",), (".dspy_ft",), arguments=("ls", "nowhere")),
    Mistake(
        "a record that is not there",
        ("nowhere.json",),
        ("nowhere.json",),
        ("--dspy-report",),
        arguments=("report", "nowhere.json"),
    ),
    Mistake(
        "an export of a stage that there is not",
        ("'taught'",),
        ("nowhere",),
        ("--dspy-stage",),
        arguments=("export", "tickets", "taught", "out", "--store", "nowhere"),
    ),
    Mistake(
        "a record that is none",
        ("notes.json",),
        ("notes.json",),
        ("--dspy-report",),
        files={"notes.json": "{}"},
        arguments=("report", "notes.json"),
    ),
)
