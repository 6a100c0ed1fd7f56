"""Gates: conditions on stages, from their text to a verdict and its explanation."""

from pytest_dspy_ft.moved import moved_names

__getattr__ = moved_names(__name__)
