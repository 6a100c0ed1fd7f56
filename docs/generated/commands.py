"""The commands of ``python -m pytest_dspy_ft``, from their own parsers."""

from __future__ import annotations

import argparse

from pytest_dspy_ft.cli import make_parser


def markdown() -> str:
    """Every command with its usage, what it does and its arguments."""
    return "\n\n".join(_command(name, parser) for name, parser in subcommands().items())


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands by name."""
    for action in make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise LookupError("the command line has no commands")


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
    usage = parser.format_usage().removeprefix("usage: ").strip()
    lines = [f"## {name}", f"```text\n{usage}\n```", parser.description or ""]
    rows = [
        f"| `{_names(action)}` | {_escaped(parser._get_formatter()._expand_help(action) if action.help else '')} |"
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction) and action.help is not argparse.SUPPRESS
    ]
    if rows:
        lines.append("\n".join(["| argument | |", "|---|---|", *rows]))
    return "\n\n".join(line for line in lines if line)


def _names(action: argparse.Action) -> str:
    if not action.option_strings:
        name = action.metavar or action.dest
        name = " ".join(name) if isinstance(name, tuple) else name
        return f"[{name}]" if action.nargs in ("?", "*") else name
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return ", ".join(f"{option}{value}" for option in action.option_strings)


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")
