"""``python -m pytest_dspy_ft``: what can be done without pytest."""

from __future__ import annotations

import sys

from pytest_dspy_ft.cli import main

if __name__ == "__main__":
    sys.exit(main())
