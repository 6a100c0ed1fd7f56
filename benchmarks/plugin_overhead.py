"""What the installed plugin costs a test suite that has nothing to do with it.

    python benchmarks/plugin_overhead.py --repeats 15

First whole processes, `python -m pytest` on one trivial test, with the plugin and with `-p no:dspy_ft` in turn. A
process' time varies by more than the plugin costs, so the same is also measured from within: importing the plugin after
pytest, each time in a fresh process. Last, that the process with the plugin has imported none of the heavy packages.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEAVY = ("dspy", "torch", "transformers", "numpy", "pydantic", "openai", "tqdm", "tabulate", "optuna")
TEST = f"""
import json, pathlib, sys

def test_nothing():
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    plugin = "pytest_dspy_ft.plugin" in sys.modules
    pathlib.Path(__file__).with_name("seen.json").write_text(json.dumps([plugin, loaded]))
"""
IMPORT = """
import sys, time
import pytest, _pytest.config, _pytest.terminal
before = set(sys.modules)
start = time.perf_counter()
import pytest_dspy_ft.plugin
print(1000 * (time.perf_counter() - start))
print(*sorted(set(sys.modules) - before))
"""


def clean(folder: Path) -> dict[str, str]:
    """The environment without what changes pytest; compiled modules are kept, as with installed packages."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**environment, "PYTHONPYCACHEPREFIX": str(folder / "pycache")}


def pytest_milliseconds(folder: Path, *arguments: str) -> tuple[float, float]:
    """The wall time and the CPU time of one pytest process."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, env=clean(folder), check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1000 * wall, 1000 * cpu


def import_milliseconds(folder: Path) -> tuple[float, list[str]]:
    """The time of importing the plugin in a process with pytest, and which modules came with it."""
    command = [sys.executable, "-c", IMPORT]
    output = subprocess.run(command, cwd=folder, env=clean(folder), check=True, capture_output=True, text=True)
    milliseconds, modules = output.stdout.splitlines()
    return float(milliseconds), modules.split()


def main() -> None:
    """Measure and print; a heavy import is an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_nothing.py").write_text(TEST)
        seen = folder / "seen.json"
        for arguments in ((), ("-p", "no:dspy_ft")):  # bytecode, disk cache
            pytest_milliseconds(folder, *arguments)
            loaded, heavy = json.loads(seen.read_text())
            if loaded is bool(arguments):
                raise SystemExit("the plugin is not installed: pip install -e . (its entry point is what is measured)")
            if not arguments:
                print(f"heavy packages imported with the plugin: {', '.join(heavy) or 'none'}")
                if heavy:
                    raise SystemExit(1)
        with_plugin, without = [], []
        for repeat in range(repeats):
            for plugin in (True, False) if repeat % 2 == 0 else (False, True):
                arguments = () if plugin else ("-p", "no:dspy_ft")
                (with_plugin if plugin else without).append(pytest_milliseconds(folder, *arguments))
        imports = [import_milliseconds(folder) for _ in range(repeats + 1)][1:]  # the first one compiles
    for index, kind in enumerate(("wall", "CPU")):
        one, other = ([run[index] for run in runs] for runs in (with_plugin, without))
        differences = [a - b for a, b in zip(one, other, strict=True)]
        print(
            f"pytest, {kind}: with the plugin {statistics.median(one):.1f} ms, without {statistics.median(other):.1f} "
            f"(medians); difference: median of pairs {statistics.median(differences):+.1f}, of the best "
            f"{min(one) - min(other):+.1f}"
        )
    times = [milliseconds for milliseconds, _ in imports]
    print(f"importing the plugin: median {statistics.median(times):.1f} ms (best {min(times):.1f})")
    print(f"modules it brings: {', '.join(imports[0][1])}")


if __name__ == "__main__":
    main()
