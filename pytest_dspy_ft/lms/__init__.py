"""One door for LM calls: which LM a name means, what a call costs, who may answer it, what its failure means."""

from pytest_dspy_ft.moved import moved_names

__getattr__ = moved_names(__name__)
