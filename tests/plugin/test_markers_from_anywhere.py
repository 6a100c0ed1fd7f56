"""A gate is judged or refused whichever way it reaches its test; a mark that is nearly one of ours is refused."""

from __future__ import annotations

import pytest

from tests.plugin.projects import run

HIGH = 'pytest.mark.dspy_gate("baseline >= 90%")'
EXPERIMENT = """
import pytest
from parity import make_experiment

@pytest.fixture(scope="session")
def dspy_experiment():
    return make_experiment()
"""
ONE = "def test_one(): ...\n"

HOOKS = {
    "modifyitems": f"def pytest_collection_modifyitems(items):\n    items[0].add_marker({HIGH})",
    "modifyitems_last": "@pytest.hookimpl(trylast=True)\n"
    f"def pytest_collection_modifyitems(items):\n    items[0].add_marker({HIGH})",
    "itemcollected": f"def pytest_itemcollected(item):\n    item.add_marker({HIGH})",
    "on_the_module": f"def pytest_collection_modifyitems(items):\n    items[0].parent.add_marker({HIGH})",
    "collection_finish": f"def pytest_collection_finish(session):\n    session.items[0].add_marker({HIGH})",
    "before_set_up": f"def pytest_runtest_setup(item):\n    item.add_marker({HIGH})",
    "autouse_fixture": f"@pytest.fixture(autouse=True)\ndef strict(request):\n    request.node.add_marker({HIGH})",
    "applymarker": f"@pytest.fixture(autouse=True)\ndef strict(request):\n    request.applymarker({HIGH})",
    "module_fixture": "@pytest.fixture(autouse=True, scope='module')\n"
    f"def strict(request):\n    request.node.add_marker({HIGH})",
    "tear_down": f"@pytest.fixture(autouse=True)\ndef strict(request):\n    yield\n    request.node.add_marker({HIGH})",
}

MODULES = {
    "param": f'@pytest.mark.parametrize("bar", [pytest.param(1, marks={HIGH})])\ndef test_one(bar): ...',
    "param_of_a_fixture": f"@pytest.fixture(params=[pytest.param(1, marks={HIGH})])\n"
    "def bar(request): ...\n\ndef test_one(bar): ...",
    "param_from_a_generator": '@pytest.mark.parametrize("bar", (pytest.param(n, marks='
    f"{HIGH}) for n in [1]))\ndef test_one(bar): ...",
    "generate_tests": "def pytest_generate_tests(metafunc):\n"
    f'    metafunc.parametrize("bar", [pytest.param(1, marks={HIGH})])\n\ndef test_one(bar): ...',
    "unittest_method": f"class Checks(unittest.TestCase):\n    @{HIGH}\n    def test_one(self): ...",
    "unittest_class": f"@{HIGH}\nclass Checks(unittest.TestCase):\n    def test_one(self): ...",
    "unittest_async": "class Checks(unittest.IsolatedAsyncioTestCase):\n"
    f"    @{HIGH}\n    async def test_one(self): ...",
    "unittest_expected_failure": "class Checks(unittest.TestCase):\n"
    f"    @{HIGH}\n    @unittest.expectedFailure\n    def test_one(self):\n        self.fail()",
    "unittest_subclass": f"class Base(unittest.TestCase):\n    @{HIGH}\n    def test_one(self): ...\n\n"
    "class Checks(Base): ...\n\ndel Base",
    "module_of_unittest": f"pytestmark = {HIGH}\n\nclass Checks(unittest.TestCase):\n    def test_one(self): ...",
    "pytestmark_list": f"class TestAll:\n    pytestmark = [{HIGH}]\n    def test_one(self): ...",
    "subclass": f"class Base:\n    @{HIGH}\n    def test_one(self): ...\n\nclass TestAll(Base): ...",
    "class_mark_of_a_base": f"@{HIGH}\nclass Base:\n    def test_one(self): ...\n\nclass TestAll(Base): ...",
    "nested_class": f"@{HIGH}\nclass TestAll:\n    class TestInner:\n        def test_one(self): ...",
    "static_method": f"class TestAll:\n    @staticmethod\n    @{HIGH}\n    def test_one(): ...",
    "async": f"@{HIGH}\nasync def test_one(): ...",
    "test_body": f"def test_one(request):\n    request.node.add_marker({HIGH})",
    "test_body_applies": f"def test_one(request):\n    request.applymarker({HIGH})",
    "kept_in_a_variable": f"quality = {HIGH}\n\n@quality\ndef test_one(): ...",
    "partial": "quality = pytest.mark.dspy_gate.with_args(on='dev')\n\n"
    "@quality('baseline >= 90%')\ndef test_one(): ...",
}


def failed(result: pytest.RunResult) -> bool:
    outcomes = result.parseoutcomes()
    return "passed" not in outcomes or "error" in outcomes or "errors" in outcomes


@pytest.mark.parametrize("way", HOOKS)
def test_a_gate_from_a_hook_or_a_fixture(project: pytest.Pytester, way: str) -> None:
    project.makeconftest(EXPERIMENT + "\n" + HOOKS[way])
    project.makepyfile(test_it=ONE)
    result = run(project)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    expected = "*added when the test was over: it was not judged*" if way == "tear_down" else "*Gate `*90%` failed*"
    result.stdout.fnmatch_lines([expected])
    assert failed(result), result.stdout.str()


@pytest.mark.parametrize("way", MODULES)
def test_a_gate_in_a_module(project: pytest.Pytester, way: str) -> None:
    project.makepyfile(test_it=f"import unittest, pytest\n\n{MODULES[way]}\n")
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["Gate `baseline >= 90%` failed*", "*", "dspy: 1 gate declared, 1 judged"])


def test_gates_that_hold_let_their_tests_pass(project: pytest.Pytester) -> None:
    """The same ways with a gate that holds: a test is not failed for the way its gate came."""
    project.makeconftest(f"{EXPERIMENT}\n{HOOKS['applymarker']}".replace("90%", "40%"))
    project.makepyfile(
        test_it="import unittest, pytest\n\n"
        + MODULES["param"]
        + "\n\n"
        + MODULES["unittest_method"]
        + "\n\n"
        + MODULES["test_body"].replace("test_one", "test_body")
    )
    file = project.path / "test_it.py"
    file.write_text(file.read_text("utf-8").replace("90%", "45%"), "utf-8")
    result = run(project)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["dspy: 6 gates declared, 6 judged"])


def test_marked_parameters_multiply_with_a_parametrized_experiment(project: pytest.Pytester) -> None:
    project.makeconftest(
        EXPERIMENT.replace('scope="session"', 'scope="session", params=["a", "b"]')
        .replace("dspy_experiment()", "dspy_experiment(request)")
        .replace("make_experiment()", "make_experiment(request.param)")
    )
    project.makepyfile(test_it=f"import pytest\n\n{MODULES['param']}\n".replace("90%", "40%"))
    result = run(project)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["dspy: 2 gates declared, 2 judged"])


def test_a_mark_too_late_for_a_parametrized_experiment_is_refused(project: pytest.Pytester) -> None:
    project.makeconftest(
        EXPERIMENT.replace('scope="session"', 'scope="session", params=["a", "b"]') + "\n" + HOOKS["modifyitems"]
    )
    project.makepyfile(test_it=ONE)
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: test_it.py:1: test_one: its mark came too late for fixture 'dspy_experiment', whose parameters *"]
    )


@pytest.mark.parametrize(
    ("mark", "where"),
    [
        ("dspy_gates", "decorator"),
        ("dspy_Gate", "decorator"),
        ("dspy_quality", "decorator"),
        ("dspy_stages", "hook"),
        ("dspy_gat", "fixture"),
        ("dspy_gat", "skipping fixture"),
        ("dspy_gat", "body"),
        ("dspy_gat", "deselected"),
    ],
)
def test_a_misspelt_mark_is_refused(project: pytest.Pytester, mark: str, where: str) -> None:
    made = f'pytest.mark.{mark}("baseline >= 40%")'
    conftest, module, arguments = EXPERIMENT, ONE, ["-Wignore"]
    if where in ("decorator", "deselected"):
        module = f"import pytest\n\n@{made}\n{ONE}"
        arguments += ["-k", "nothing"] if where == "deselected" else []
    elif where == "hook":
        conftest += f"\ndef pytest_collection_modifyitems(items):\n    items[0].add_marker({made})\n"
    elif where == "body":
        module = f"import pytest\n\ndef test_one(request):\n    request.node.add_marker({made})\n"
    else:
        skip = "\n    pytest.skip('not today')" if "skipping" in where else ""
        conftest += f"\n@pytest.fixture(autouse=True)\ndef strict(request):\n    request.applymarker({made}){skip}\n"
    project.makeconftest(conftest)
    project.makepyfile(test_it=module)
    result = run(project, *arguments)
    assert result.ret in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.TESTS_FAILED)
    text = result.stdout.str() + result.stderr.str()
    assert f"there is no marker {mark!r}" in text
    assert "those that begin with dspy_ are dspy_gate, dspy_stage" in text


@pytest.mark.parametrize(
    ("late", "message"),
    [
        ('"finetuend >= 40%"', "there is no stage `finetuend`"),
        ('"baseline => 40%"', "=>"),
        ('"baseline >= 40%", no="test"', "unexpected keyword argument 'no'"),
        ('"finetuned >= 40%"', "needs --dspy-stage=finetune"),
    ],
)
def test_a_gate_that_comes_late_is_checked_like_any(project: pytest.Pytester, late: str, message: str) -> None:
    project.makepyfile(
        test_it=f"import pytest\n\ndef test_one(request):\n    request.node.add_marker(pytest.mark.dspy_gate({late}))\n"
    )
    result = run(project, "-rs")
    assert "passed" not in result.parseoutcomes()
    assert message in result.stdout.str()


def test_a_late_gate_with_a_confidence_cannot_be_corrected_for(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ndspy_correction = holm\n")
    project.makepyfile(
        test_it="import pytest\n\ndef test_one(request):\n"
        "    request.node.add_marker(pytest.mark.dspy_gate('baseline >= 10%', confidence=0.9))\n"
    )
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*dspy_correction = holm has to know all gates with a confidence before*"])


def test_a_gate_on_what_is_no_test_function_is_refused(project: pytest.Pytester) -> None:
    project.makeconftest(
        EXPERIMENT
        + f"""
class Row(pytest.Item):
    def runtest(self): ...

class Rows(pytest.File):
    def collect(self):
        row = Row.from_parent(self, name="row")
        row.add_marker({HIGH})
        yield row

def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".rows":
        return Rows.from_parent(parent, path=file_path)
"""
    )
    (project.path / "it.rows").write_text("")
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: it.rows:1: *dspy_gate on a Row, for which nothing is judged; mark a test *"])


def test_a_pytestmark_in_a_conftest_is_refused(project: pytest.Pytester) -> None:
    project.makeconftest(f"{EXPERIMENT}\npytestmark = [{HIGH}]\n")
    project.makepyfile(test_it=ONE)
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *conftest.py: pytest knows no pytestmark in a conftest.py*"])
