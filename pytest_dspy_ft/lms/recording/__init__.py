"""LM calls kept in a folder fit to commit, and answered from it."""
