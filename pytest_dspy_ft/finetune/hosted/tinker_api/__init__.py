"""Tinker: the loop of a training runs here, its steps at the service."""
