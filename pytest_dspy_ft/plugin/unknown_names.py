"""Options and ini names that are none, though they begin as ours do: refused, with the one that may be meant.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_dspy_ft.plugin.compat import knows_option, names_in_ini
from pytest_dspy_ft.text import did_you_mean


def refuse_unknown_options(parser: pytest.Parser, arguments: Sequence[str], known: Sequence[str]) -> None:
    """Refuse options that are written almost as one of ours; pytest would only call them unrecognized.

    Args:
        parser: Knows the options of all plugins.
        arguments: The command line.
        known: Our options.

    Raises:
        pytest.UsageError: Naming the one that may be meant.
    """
    for argument in arguments:
        name = argument.partition("=")[0]
        near = did_you_mean(name, known, quoted=str) if name.startswith("--dspy") and name not in known else ""
        if near and not knows_option(parser, name):
            raise pytest.UsageError(f"there is no option {name}{near}; pytest --help lists all, in the group dspy")


def refuse_unknown_names(config: pytest.Config, known: Sequence[str]) -> None:
    """Refuse names of the ini file that are none of ours; pytest would but warn, and go on without them.

    Args:
        config: The session's.
        known: Our names.

    Raises:
        pytest.UsageError: Naming the one that may be meant, and all that there are.
    """
    for name in names_in_ini(config):
        if name.startswith("dspy_") and name not in known:
            raise pytest.UsageError(
                f"{config.inipath}: {name} is no setting{did_you_mean(name, known)}; those that begin with dspy_ are "
                f"{', '.join(known)}"
            )
