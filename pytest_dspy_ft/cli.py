"""The command line without pytest. Nothing here imports dspy or torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from pytest_dspy_ft.saved import schema


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pytest_dspy_ft", description="What was built and measured.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("schema", help="print the JSON Schema of a saved record")
    command.set_defaults(run=_schema)
    options = parser.parse_args(arguments)
    return int(options.run(options))


def _schema(options: argparse.Namespace) -> int:
    print(json.dumps(schema(), indent=1))
    return 0
