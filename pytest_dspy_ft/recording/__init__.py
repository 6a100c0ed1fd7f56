"""LM calls of a session kept in a folder fit to commit, and answered from there without network or key.

PYTEST_DONT_REWRITE
"""
