"""An option of the command line and the ini file: where it may be written, and what its values are.

The functions here read values. One that makes no sense raises ``argparse.ArgumentTypeError`` with a message that
begins with the value; argparse reports it for the command line, :meth:`Entry.read` for the ini file.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from pytest_dspy_ft.errors import ServingError
from pytest_dspy_ft.lms.resolve import is_local_name
from pytest_dspy_ft.report.formats import REPORT_KINDS

PRECAUTIONS = ("warn", "fail", "off")


class Entry(NamedTuple):
    """One option: where it may be written, and what its values are."""

    field: str
    """Of :class:`Options`, or of what :func:`read_options` makes one of."""
    help: str
    """What it is for. Its ini name and what holds without it are added."""
    option: str = ""
    """Its name on the command line; none: in the ini file only."""
    ini: str = ""
    """Its name in the ini file; none: on the command line only."""
    metavar: str | None = None
    parse: Callable[[str], Any] = str
    """Reads one value. A Path is seen from where pytest was started, one in the ini file from where that lies."""
    choices: tuple[str, ...] = ()
    """All values that there are, in place of ``parse``."""
    collect: Callable[[Iterable[Any]], Any] | None = None
    """What the values of an option that may be repeated become; None: it may not."""
    switch: bool = False
    """Whether it takes no value on the command line; in the ini file it is a bool, or one of its ``choices``."""
    default: str = ""
    """What the ini file says where it lacks the name; empty: nothing, so that the field's default holds."""
    otherwise: str = ""
    """What holds without it, for the help."""
    ini_type: Literal["args", "linelist"] = "args"
    """How the ini file holds the values of an option that may be repeated."""

    def register(self, parser: pytest.Parser, group: pytest.OptionGroup) -> None:
        """Make its names known to pytest."""
        facts = [f"ini: {self.ini}"] if self.option and self.ini else []
        facts += [f"default: {self.otherwise}"] if self.otherwise else []
        text = f"{self.help} ({'; '.join(facts)})" if facts else self.help
        if self.option and self.switch:
            group.addoption(self.option, action="store_true", default=None, help=text)
        elif self.option:
            group.addoption(
                self.option,
                action="append" if self.collect else "store",
                type=str if self.choices else self.parse,
                choices=self.choices or None,
                default=None,
                metavar=self.metavar,
                help=text,
            )
        if self.ini:
            text = f"default of {self.option}" if self.option else text
            if self.switch and not self.choices:
                parser.addini(self.ini, text, type="bool", default=False)
            elif self.collect:
                parser.addini(self.ini, text, type=self.ini_type, default=[])
            else:
                parser.addini(self.ini, text, default=self.default)

    def read(self, config: pytest.Config) -> Any:
        """The value: the command line's, else the ini file's; None where neither says anything.

        Raises:
            pytest.UsageError: If the ini file's makes no sense; it names the value and what would be right.
        """
        given = config.getoption(self.option) if self.option else None
        if given not in (None, "", []):
            return self._complete(given, config.invocation_params.dir)
        written = config.getini(self.ini) if self.ini else None
        if (self.switch and not self.choices) or written is None or (written == "" and not self.default):
            return written or None
        try:
            parsed = [self.parse(text) for text in written] if self.collect else self.parse(written)
            if self.choices and parsed not in self.choices:
                raise pytest.UsageError(
                    f"{config.inipath}: {self.ini} = {written}: choices are {', '.join(self.choices)}"
                )
            return self.switch or self._complete(parsed, beside_ini(config))
        except argparse.ArgumentTypeError as error:
            raise pytest.UsageError(f"{config.inipath}: {self.ini} = {error}") from None
        except ValueError as error:
            raise pytest.UsageError(f"{config.inipath}: {self.ini}: {error}") from None

    def _complete(self, value: Any, folder: Path) -> Any:
        if self.collect:
            return self.collect(folder / one if isinstance(one, Path) else one for one in value)
        return folder / value if isinstance(value, Path) else value


def checked(kind: Callable[[str], Any], valid: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    """A parser of values of a kind that lie in a range; ``wanted`` says which in words."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not valid(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


def at_least_one(noun: str) -> Callable[[str], Any]:
    """A parser of positive whole numbers of something, named in the plural."""
    return checked(int, lambda n: n >= 1, f"a whole number of {noun}, at least 1")


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """A parser of a few words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return parse


def _proportion(text: str) -> float:
    return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


to_share = checked(_proportion, lambda share: 0 <= share <= 1, "a share such as 5% or 0.05")
"""Reads a share, written as 5% or as 0.05."""


def to_path(text: str) -> Path | None:
    """A path, with the home folder for ``~``; None for an empty text."""
    return Path(text).expanduser() if text else None


def to_addresses(text: str) -> str:
    """Addresses of servers, separated by commas, each looked at."""
    from pytest_dspy_ft.lms.server_address import ServerAddress

    try:
        for one in comma_separated([text]):
            ServerAddress.read(one)
    except ServingError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def comma_separated(values: Iterable[str]) -> tuple[str, ...]:
    """The words of values that may each hold several, in order, each once."""
    return distinct(word.strip() for value in values for word in value.split(",") if word.strip())


def distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    """The values in order, each once."""
    return tuple(dict.fromkeys(values))


def beside_ini(config: pytest.Config) -> Path:
    """The folder of the ini file; without one, pytest's root folder."""
    return config.inipath.parent if config.inipath is not None else config.rootpath


def near_duplicates(text: str) -> tuple[str, float]:
    """What to do about near-duplicates, and the similarity from which two examples are."""
    parts = text.split()
    if not parts or parts[0] not in PRECAUTIONS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(PRECAUTIONS)}")
    if len(parts) > 2:
        raise argparse.ArgumentTypeError(f"{' '.join(parts)!r}; give a word and a similarity, such as fail 90%")
    similarity = to_share(parts[1]) if len(parts) == 2 else 0.8
    if not similarity:
        raise ValueError("a similarity of 0 makes all examples alike")
    return parts[0], similarity


def report_path(text: str) -> Path:
    """A report's file, whose name says its format."""
    path = Path(text).expanduser()
    if path.suffix.lower() not in REPORT_KINDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no report: choose a name that ends in {', '.join(REPORT_KINDS)}")
    return path


def check_constrained(lms: Sequence[str], servers: Sequence[str]) -> None:
    """Refuse ``--dspy-constrain`` where it would do nothing.

    Args:
        lms: What the LM fixtures give.
        servers: Those that answer for models of this machine.

    Raises:
        pytest.UsageError: It says what would be right.
    """
    if servers:
        raise pytest.UsageError(
            "--dspy-constrain is for models that answer in this process, and --dspy-serve has a server answer: leave "
            "one of them out"
        )
    if not any(map(is_local_name, lms)):
        raise pytest.UsageError(
            f"--dspy-constrain is for LMs that run on this machine, and --dspy-lm={lms[0]} does not: leave it out, or "
            "use --dspy-lm=local"
        )
