"""Arguments of the command line, checked as they are read."""

from __future__ import annotations

import argparse

from pytest_dspy_ft.statistics import CONFIDENCES, is_confidence


def confidence(text: str) -> float:
    """A confidence; ArgumentTypeError for what is none."""
    value = float(text)
    if not is_confidence(value):
        raise argparse.ArgumentTypeError(f"{text} is not {CONFIDENCES}")
    return value


def count(text: str) -> int:
    """A number of builds; ArgumentTypeError for less than one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of builds, at least 1")
    return value


def days(text: str) -> float:
    """A number of days; ArgumentTypeError for less than none."""
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of days")
    return value
