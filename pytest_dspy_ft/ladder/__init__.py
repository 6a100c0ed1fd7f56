"""Stages built once, measured once, judged."""
