"""The disk: builds, evaluations, what a store holds, and what of it no longer counts."""

DEFAULT_STORE = ".dspy_ft"
"""The folder of stages and results, where the user names no other."""
