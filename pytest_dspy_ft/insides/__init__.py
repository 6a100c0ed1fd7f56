"""All that leans on DSPy's insides: what is not in its documentation, and may be gone in its next version.

Each module says what it leans on where it imports it, inside :func:`~pytest_dspy_ft.insides.needs.needed`; no other
room imports more of DSPy than ``dspy`` and ``dspy.lm15``. Written for, and tested with, DSPy 3.4.1.
"""
