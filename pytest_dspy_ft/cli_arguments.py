"""Arguments of the command line, checked as they are read."""

from __future__ import annotations

import argparse
import contextlib
import math

from pytest_dspy_ft.statistics import CONFIDENCES, is_confidence


def confidence(text: str) -> float:
    """A confidence; ArgumentTypeError for what is none."""
    value = _number(text)
    if not is_confidence(value):
        raise argparse.ArgumentTypeError(f"{text} is not {CONFIDENCES}")
    return value


def count(text: str) -> int:
    """A number of builds; ArgumentTypeError for less than one."""
    return _whole(text, "builds")


def sessions(text: str) -> int:
    """A number of sessions; ArgumentTypeError for less than one."""
    return _whole(text, "sessions")


def days(text: str) -> float:
    """A number of days; ArgumentTypeError for less than none."""
    value = _number(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of days, such as 30")
    return value


def _whole(text: str, of: str) -> int:
    value = _number(text)
    if value < 1 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text} is not a number of {of}, at least 1")
    return int(value)


def _number(text: str) -> float:
    """The number; one that no condition holds for, where the text is none or is not finite."""
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    return -1.0
