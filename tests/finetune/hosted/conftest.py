"""Every test runs in a folder of its own, without keys or addresses of the machine it runs on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.finetune.hosted.world import close_connections


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "AZURE_API_KEY", "AZURE_OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    logging.getLogger("dspy").setLevel(logging.CRITICAL)  # it logs every failed job
    yield
    close_connections()
    logging.getLogger("dspy").setLevel(logging.NOTSET)
