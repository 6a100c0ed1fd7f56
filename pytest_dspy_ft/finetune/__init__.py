"""Traces, the training rows they give, and the trainings of a stage."""

from pytest_dspy_ft.moved import moved_names

__getattr__ = moved_names(__name__)
