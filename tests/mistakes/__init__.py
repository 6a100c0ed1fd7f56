"""Deliberate mistakes, and the first lines that a user sees of each."""
