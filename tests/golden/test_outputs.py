"""Everything a session prints and writes, and what the command line makes of it, is as the golden files have it.

The sessions use the command line alone. ``DSPY_FT_GOLDEN=write`` writes ``outputs/`` anew.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.golden import snapshots

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
WORLD = (HERE / "world.py").read_text(encoding="utf-8")

CONFTEST = """
import dspy, pytest
from world import Labels, make_experiment

@pytest.fixture(scope="session")
def dspy_experiment():
    return make_experiment()
"""
GATES = """
import pytest

@pytest.mark.dspy_gate("baseline >= 40%")
def test_passes(): ...

@pytest.mark.dspy_gate("prompt_optimized >= 95%")
@pytest.mark.dspy_gate("prompt_optimized >= baseline + 10%")
def test_fails(): ...

@pytest.mark.dspy_gate("bootstrapped >= by_hand - 1%", confidence=0.95)
def test_undecided(): ...

@pytest.mark.dspy_gate("prompt_optimized >= baseline + 30%", confidence=0.9, undecided="warn", on="test")
def test_open(): ...

@pytest.mark.dspy_gate("finetuned >= prompt_optimized", on="test")
@pytest.mark.dspy_gate("bootstrap_rate(finetuned) >= 90%")
def test_out_of_reach(): ...

@pytest.mark.dspy_gate("labelled >= 90%")
def test_labelled(dspy_evaluate):
    assert dspy_evaluate("labelled", on="test").score == 0.9

@pytest.mark.dspy_gate("tokens(by_hand) <= 2 * tokens(baseline)")
@pytest.mark.dspy_gate("errors(baseline) <= 9%", on="test")
def test_other_measures(): ...

@pytest.mark.dspy_gate("baseline >= 40%", lm="openai/*")
def test_other_lm(): ...

@pytest.mark.dspy_stage("by_hand")
def test_program(dspy_program):
    assert dspy_program("by_hand")(text="4").label == "even"
"""
SECOND = CONFTEST.replace("make_experiment()", 'make_experiment("second", program=dspy.Predict(Labels), stages=[])')
SECOND_GATES = """
import pytest

@pytest.mark.dspy_gate("baseline >= 40%", on="test")
def test_second(): ...
"""
WORSE = ",".join(str(n) for n in range(60, 80, 2))

ERRORS: dict[str, tuple[str, str, str]] = {  # name: gate, option, ini line
    "gate_unknown_stage": ("baselin >= 40%", "", ""),
    "gate_misspelt": ("baseline => 40%", "", ""),
    "gate_unknown_measure": ("tokns(baseline) <= 40", "", ""),
    "option_stage": ("baseline >= 40%", "--dspy-stage=finetun", ""),
    "option_confidence": ("baseline >= 40%", "--dspy-confidence=95", ""),
    "option_report": ("baseline >= 40%", "--dspy-report=run.txt", ""),
    "option_compare": ("baseline >= 40%", "--dspy-compare=nowhere.json", ""),
    "option_frozen": ("baseline >= 40%", "--dspy-frozen", ""),
    "ini_correction": ("baseline >= 40%", "", "dspy_correction = bonferoni"),
    "ini_near_duplicates": ("baseline >= 40%", "", "dspy_near_duplicates = shout"),
    "ini_prices": ("baseline >= 40%", "", "dspy_prices = toy/golden = free"),
}
CLI = {
    "ls": ["ls"],
    "report_record": ["report", "all.json"],
    "report_store": ["report"],
    "compare": ["compare", "all.json", "worse.json"],
    "prune": ["prune", "--keep-last", "1"],
    "prune_done": ["prune", "--keep-last", "1", "--yes"],
    "ls_pruned": ["ls"],
    "schema": ["schema"],
    "errors": ["report", "nowhere.json"],
}
TERMINAL = ["plan", "prompt", "all", "worse", "frozen", *(f"error_{name}" for name in ERRORS)]


def command(folder: Path, module: str, *arguments: str, **environment: str) -> str:
    """Run a module in a project; gives its standard output and errors."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "PYTEST_", "CI", "DSPY_", "FORCE_"))}
    own = {"COLUMNS": "132", "PYTHONIOENCODING": "utf-8", "TZ": "UTC", "DSPY_CACHEDIR": str(folder / "dspy_cache")}
    own["PYTHONPATH"] = os.pathsep.join([str(folder), str(REPOSITORY)])
    line = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        line, cwd=folder, env=kept | own | environment, capture_output=True, text=True, encoding="utf-8", check=False
    )
    return f"{done.stdout}{done.stderr}\nexit code {done.returncode}\n"


def session(folder: Path, *arguments: str, **environment: str) -> str:
    return command(folder, "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-rs", *arguments, **environment)


def project(folder: Path, gates: str, ini: str = "dspy_num_threads = 1") -> Path:
    """A folder with the world, its experiment and a file of gates."""
    folder.mkdir(parents=True)
    for name, text in {"world": WORLD, "conftest": CONFTEST, "test_first": gates}.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    (folder / "pytest.ini").write_text(f"[pytest]\n{ini}\n", encoding="utf-8")
    return folder


def main_sessions(folder: Path) -> dict[str, str]:
    project(folder, GATES)
    (folder / "second").mkdir()
    (folder / "second" / "conftest.py").write_text(SECOND, encoding="utf-8")
    (folder / "second" / "test_second.py").write_text(SECOND_GATES, encoding="utf-8")
    reports = [f"--dspy-report=run.{kind}" for kind in ("json", "md", "html")]
    found = {"plan": session(folder, "--dspy-stage=all", "--dspy-plan")}
    found["prompt"] = session(folder, "--dspy-stage=prompt", "--dspy-save-baseline=no.json")
    saving = ["--dspy-save-baseline=base.json", "--dspy-report=all.json", "--junitxml=junit.xml"]
    found["all"] = session(folder, "--dspy-stage=all", *saving, *reports)
    found["layout"] = layout(folder / ".dspy_ft")
    found["frozen"] = session(folder, "--dspy-stage=all", "--dspy-frozen")
    changed = ["--dspy-store=worse", "--dspy-compare=base.json"]
    written = [f"--dspy-report=worse.{kind}" for kind in ("json", "md", "html")]
    found["worse"] = session(folder, "--dspy-stage=all", *changed, *written, GOLDEN_WRONG=WORSE)
    session(folder, "--dspy-stage=all", GOLDEN_DEMOS="2")  # other builds, to prune the earlier ones
    for path in [folder / ".dspy_ft", *(folder / ".dspy_ft").rglob("*")]:
        os.utime(path, (time.time() - 7200,) * 2)  # what was used within the last hour stays
    for name, arguments in CLI.items():
        found[f"cli_{name}"] = command(folder, "pytest_dspy_ft", *arguments)
    found["help"] = command(folder, "pytest", "-p", "no:xdist", "--help")
    return found


def layout(store: Path) -> str:
    """The store's files, and of each kind of JSON file the structure: names and types."""
    files = sorted(p.relative_to(store) for p in store.rglob("*") if p.is_file())
    lines = []
    shapes: dict[str, list[str]] = {}
    for file in files:
        plain = re.sub(r"[0-9a-f]{32}", "‹key›", file.as_posix())
        lines.append(plain)
        kind = re.sub(r"(stages|evaluations|sessions)/.*/(dev-|test-)?", r"\1/", plain)
        if file.suffix == ".json":
            shapes.setdefault(kind, []).extend(shape(json.loads((store / file).read_text("utf-8"))))
        elif file.suffix == ".jsonl":
            for row in (store / file).read_text("utf-8").splitlines():
                shapes.setdefault(kind, []).extend(shape(json.loads(row)))
    described = [f"\n{kind}\n" + "\n".join(f"  {s}" for s in sorted(set(found))) for kind, found in shapes.items()]
    return "\n".join([*sorted(lines), *sorted(described)])


def shape(value: object, where: str = "") -> list[str]:
    if isinstance(value, dict) and value and where != ".environment":  # what is installed differs
        return [line for key, item in value.items() for line in shape(item, f"{where}.{key}")]
    if isinstance(value, list) and value:
        return [line for item in value for line in shape(item, f"{where}[]")]
    return [f"{where}: {type(value).__name__}"]


def error_sessions(folder: Path) -> dict[str, str]:
    """Sessions that end with an error, in one process: to load DSPy takes most of their time."""
    for name, (gate, _, ini) in ERRORS.items():
        project(folder / name, f'import pytest\n\n@pytest.mark.dspy_gate("{gate}")\ndef test_it(): ...\n', ini)
    calls = [[name, option] for name, (_, option, _) in ERRORS.items()]
    (folder / "run_all.py").write_text(f"CALLS = {calls}\n{RUN_ALL}", encoding="utf-8")
    parts = command(folder, "run_all").rpartition("\nexit code")[0].split("@@@ ")[1:]
    return {f"error_{name}": text for name, _, text in (part.partition("\n") for part in parts)}


RUN_ALL = """
import os, sys, pytest
start = os.getcwd()
sys.argv[0] = "pytest"
sys.stderr = sys.stdout
for name, option in CALLS:
    os.chdir(os.path.join(start, name))
    for module in ("conftest", "world", "test_first"):
        sys.modules.pop(module, None)
    print("@@@", name)
    code = pytest.main(["-p", "no:cacheprovider", "-p", "no:xdist", "-rN", *filter(None, [option])])
    print("exit code", int(code), flush=True)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


@pytest.fixture(scope="module")
def outputs(world: Path) -> dict[str, str]:
    """All that the sessions printed, by name."""
    with ThreadPoolExecutor(2) as pool:
        main, errors = pool.submit(main_sessions, world / "main"), pool.submit(error_sessions, world / "errors")
        return main.result() | errors.result()


def summary(text: str) -> str:
    """From the first failure or error on; without what was captured, and without tables of tests."""
    start = re.search(r"^=+ (FAILURES|ERRORS|warnings summary|dspy).*=+$|^ERROR|^_+ ", text, flags=re.MULTILINE)
    text = text[start.start() :] if start else text
    return re.sub(r"^-+ Captured (stdout|stderr).*\n(.*\n)*?(?=[_=]{3})", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", TERMINAL)
def test_terminal(outputs: dict[str, str], world: Path, name: str) -> None:
    folders = [world / "main", world / "errors" / name.removeprefix("error_")]
    snapshots.check(HERE / "outputs" / f"{name}.txt", snapshots.normalised(summary(outputs[name]), *folders))


@pytest.mark.parametrize("name", CLI)
def test_command_line(outputs: dict[str, str], world: Path, name: str) -> None:
    text = snapshots.normalised(outputs[f"cli_{name}"], world / "main")
    text = re.sub(r"\b\d+(\.\d+)? k?B\b", "‹size›", text)
    text = re.sub(r"\b[0-9a-f]{12}\b", "‹key›", re.sub(r" {2,}", "  ", text))
    if name == "schema":  # what a field is called and holds; what is said of it is prose
        text = re.sub(r'^ *"description": .*\n', "", text, flags=re.MULTILINE)
    snapshots.check(HERE / "outputs" / f"cli_{name}.txt", text)


@pytest.mark.parametrize("name", ["run.json", "run.md", "run.html", "worse.md", "base.json", "junit.xml"])
def test_written_files(outputs: dict[str, str], world: Path, name: str) -> None:
    text = (world / "main" / name).read_text(encoding="utf-8")
    make = {"json": snapshots.json_text, "html": snapshots.html_text}.get(name.split(".")[1], snapshots.normalised)
    text = make(text, world / "main")
    if name == "junit.xml":
        text = re.sub(r"\n?<(?=testcase|property|failure|skipped)", "\n<", text)
        text = re.sub(r"<system-(out|err)>.*?</system-\1>", "", text, flags=re.DOTALL)
    snapshots.check(HERE / "outputs" / name, text)


def test_layout_of_the_store(outputs: dict[str, str]) -> None:
    snapshots.check(HERE / "outputs" / "layout.txt", snapshots.normalised(outputs["layout"]))


def test_help(outputs: dict[str, str]) -> None:
    [options] = re.findall(r"^regression tests for DSPy.*?\n(?=\n\S)", outputs["help"], flags=re.MULTILINE | re.DOTALL)
    ini = re.findall(r"^  dspy_\w+ \(.*\n(?:   {20}.*\n)*", outputs["help"], flags=re.MULTILINE)
    snapshots.check(HERE / "outputs" / "help.txt", options + "\n" + "".join(ini))
