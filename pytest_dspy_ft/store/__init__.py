"""The disk: builds, evaluations, what a store holds, and what of it no longer counts."""

from pytest_dspy_ft.moved import moved_names

DEFAULT_STORE = ".dspy_ft"
"""The folder of stages and results, where the user names no other."""

__getattr__ = moved_names(__name__)
