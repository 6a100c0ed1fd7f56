"""Regression tests and quality gates for DSPy programs. PYTEST_DONT_REWRITE."""
