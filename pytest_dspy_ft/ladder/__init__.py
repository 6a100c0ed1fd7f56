"""Stages built once, measured once, judged."""

from pytest_dspy_ft.moved import moved_names

__getattr__ = moved_names(__name__)
