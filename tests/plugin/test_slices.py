"""Gates in slices: a stage that is better as a whole and loses one category passes a plain gate, and not one by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_dspy_ft import Dataset, Ladder
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.lms.prices import Prices
from pytest_dspy_ft.plugin.options import Options
from pytest_dspy_ft.plugin.session_records import SessionRecords
from tests.plugin.projects import calls, run
from tests.tickets import CATEGORIES, make_tickets, tickets

TICKETS = (Path(__file__).parents[1] / "tickets.py").read_text(encoding="utf-8")
CONFTEST = """
import pytest
from tickets import make_tickets

@pytest.fixture(scope="session")
def dspy_experiment():
    return make_tickets(SLICES)
"""
PLAIN = '@pytest.mark.dspy_gate("prompt_optimized >= baseline"'
PROMPT = "--dspy-stage=prompt"


def gates(*arguments: str) -> str:
    tests = [f"{PLAIN}{more})\ndef test_{number}(): ...\n" for number, more in enumerate(arguments)]
    return "import pytest\n\n" + "\n".join(tests)


@pytest.fixture
def shop(project: pytest.Pytester) -> pytest.Pytester:
    """A project of 200 tickets."""
    project.makepyfile(tickets=TICKETS)
    sliced(project, "")
    return project


def sliced(shop: pytest.Pytester, slices: str) -> None:
    shop.makeconftest(CONFTEST.replace("SLICES", f"slices={slices}" if slices else ""))


def test_the_whole_improves_and_one_category_breaks(shop: pytest.Pytester) -> None:
    shop.makepyfile(gates("", ', by="category"', ', by="category", confidence=0.95'))
    result = run(shop, PROMPT, "-v", "--dspy-report=run.json", "--dspy-report=run.md", "--dspy-report=run.html")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "Gate `prompt_optimized >= baseline` by category failed (on dev, n = 200 in 5 slices): failed in 1 of 5 "
            "slices, the worst is refund: observed -42.5 pts",
            "    refund     n = 40  -42.5 pts  FAIL",
            "    account    n = 40  +25.0 pts  PASS",
            "  Slice refund failed (n = 40): observed -42.5 pts",
            "    left side 37.5%, right side 80.0%: margin -42.5 pts",
            "    broke * (*): text='refund 15: please help'",
            "      prompt_optimized category='Billing'",
            "    refund     n = 40  -42.5 pts  FAIL  margin at 99%: -62.7 pts to -21.4 pts",
            "  corrected by Holm's method for 5 trials: error 0.05 / 5",
            "prompt_optimized*83.5%*+11.5*40*17*",
            "by category on dev*n*baseline*prompt_optimized*95% CI",
            "refund*40*80.0%*37.5%*",
            "worst slice of prompt_optimized on dev: category=refund, 37.5% of 40 examples; the others 95.0% (-57.5*",
            "category of dev confused by prompt_optimized: refund*billing 22 of 40, refund*(other) 2 of 40,*",
            "prompt_optimized >= baseline*dev*+11.5 pts*PASS",
            "prompt_optimized >= baseline by category*dev*-42.5 pts in refund*FAIL",
        ]
    )
    assert "lost in slice" not in result.stdout.str(), "the gate has said so"
    [experiment] = json.loads((shop.path / "run.json").read_text("utf-8"))["experiments"]
    verdict = experiment["verdicts"][2]
    assert [(s["name"], s["n"], s["verdict"], s["tried"]) for s in verdict["slices"]] == [
        ("refund", 40, "FAIL", 5),
        *((name, 40, "PASS", 5) for name in ("account", "billing", "shipping", "technical")),
    ]
    assert len(verdict["slices"][0]["broke"]) == 17
    assert (verdict["by"], verdict["passed"], verdict["margin"]) == ("category", False, -0.425)
    for report in ("run.md", "run.html"):
        text = (shop.path / report).read_text("utf-8").replace("&#58;", ":")
        assert "refund 15: please help" in text, "the examples behind the cell are there"
        assert "[24.2, 53.0]" in text


def test_the_lost_category_is_named_where_no_gate_asks(shop: pytest.Pytester) -> None:
    shop.makepyfile(gates(""))
    result = run(shop, PROMPT)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "worst slice of prompt_optimized on dev: category=refund, 37.5% of 40 examples*",
            "(!) `prompt_optimized` on dev lost in slice category=refund what `baseline` had: 80.0% -> 37.5% of 40 *",
            "*by='category' on a gate judges each slice",
        ]
    )
    result.stdout.no_fnmatch_line("by category on dev*")


def test_named_slices_labels_and_missing_fields(shop: pytest.Pytester) -> None:
    sliced(shop, '{"length": lambda e: "short" if len(e.text) < 30 else "long"}')
    shop.makepyfile(gates(', by="length"', ', by="urgent", undecided="warn", confidence=0.95', ', by="urgent"'))
    result = run(shop, PROMPT)
    result.assert_outcomes(passed=3, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "*undecided gate: Gate `prompt_optimized >= baseline` by urgent is undecided*in 3 slices*",
            "by length on dev*",
            "by urgent on dev*",
            "False*100*",
            "True*30*",
            "(none)*70*",
            "prompt_optimized >= baseline by length*dev*PASS",
            "prompt_optimized >= baseline by urgent*dev*pts in (none)*UNDECIDED (warn)",
        ]
    )


def test_small_slices_are_pooled_and_said(shop: pytest.Pytester) -> None:
    name = "lambda e: 'most' if int(e.text.split(':')[0].split()[1]) > 2 else e.category"
    sliced(shop, f'{{"kind": {name}}}')
    shop.makepyfile(gates(', by="kind"', ', by="kind", min_n=3', ', by="kind", min_n=16'))
    result = run(shop, PROMPT)
    result.assert_outcomes(passed=3, warnings=2)
    pool = "(pooled: account, billing, refund, shipping, technical)"
    result.stdout.fnmatch_lines(
        [
            f"*ResolutionWarning: gate `*` by 'kind' on 'dev': '{pool}' has 15 examples, fewer than min_n=20, pooled "
            "as they are, and is judged all the same",
            "*by kind*dev*+0.0 pts in (pooled: account, *",
        ]
    )


@pytest.mark.parametrize(
    ("slices", "by", "said"),
    [
        ("", "categry", "by='categry' is no field *did you mean 'category'?; fields are (text, category, urgent)*"),
        ("{'length': lambda e: len(e.text)}", "lenght", "*did you mean 'length'?*slices are (length)*"),
        ("", "text", "by='text' makes no slices: 220 of 220 examples have a value that no other has*'short' if *"),
        ("{'size': lambda e: hash(e.text) / 7}", "size", "by='size' makes no slices*"),
        (
            "{'bad': lambda e: e.nothing}",
            "bad",
            "*slice function 'bad' failed: AttributeError*on example * of dev: *",
        ),
        (
            "{'bad': lambda e: [1]}",
            "bad",
            "*slice function 'bad': a list is no label*, on example * of dev:*",
        ),
        ("{'bad': lambda e: e.nothing}", "category", "*slice function 'bad' failed: AttributeError*"),
    ],
)
def test_what_makes_no_slices_is_refused_at_collection(shop: pytest.Pytester, slices: str, by: str, said: str) -> None:
    sliced(shop, slices)
    shop.makepyfile(gates(f', by="{by}"'))
    result = run(shop, PROMPT)
    assert result.ret == pytest.ExitCode.USAGE_ERROR, result.stdout.str()
    result.stderr.fnmatch_lines([f"*test_0: *{said}"])
    assert not calls(shop)


def test_arguments_are_checked(shop: pytest.Pytester) -> None:
    shop.makepyfile(gates(', by="category", min_n=0', ', by="category", min_n=True', ", min_n=5", ", by=3"))
    result = run(shop, PROMPT)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "*test_0: *min_n must be a whole number of at least 1, not 0",
            "*test_1: *min_n must be a whole number of at least 1, not True",
            "*test_2: *min_n=5 is the least size of a slice, and there is no by= to slice by",
            "*test_3: *by must be the name of a field or of a slice function, not 3",
        ]
    )


def test_slices_are_trials_among_the_sessions(shop: pytest.Pytester) -> None:
    shop.makeini("[pytest]\ndspy_correction = holm\n")
    text = gates(', by="category", confidence=0.95', ", confidence=0.95")
    shop.makepyfile(text + '\n@pytest.mark.dspy_gate("baseline >= 73%", confidence=0.9)\ndef test_open(): ...\n')
    result = run(shop, PROMPT, "--dspy-report=run.json")
    result.assert_outcomes(passed=1, failed=2)
    [experiment] = json.loads((shop.path / "run.json").read_text("utf-8"))["experiments"]
    by_category, whole, undecided = experiment["verdicts"]
    assert {part["tried"] for part in by_category["slices"]} == {7}, "5 slices and 2 gates: all clear at a 7th"
    assert by_category["confidence"] == pytest.approx(1 - 0.05 / 7)
    assert (whole["tried"], undecided["tried"]) == (7, 1), "what is left is judged at all of its error"
    result.stdout.fnmatch_lines(["(!) 3 gates (1 of them in slices) were tried at a confidence; each slice of each*"])


def test_with_plans_requirements_limits_and_other_lms(shop: pytest.Pytester) -> None:
    shop.makepyfile(gates(', by="category"', ', by="category", lm="openai/*"'))
    planned = run(shop, PROMPT, "--dspy-plan")
    planned.stdout.fnmatch_lines(["*dspy plan: tickets*"])
    assert not calls(shop)
    required = run(shop, "--dspy-require")
    assert required.ret == pytest.ExitCode.TESTS_FAILED
    required.stdout.fnmatch_lines(["NOT JUDGED *test_0: `prompt_optimized >= baseline` by category on dev: *"])
    short = run(shop, PROMPT, "--dspy-limit=12")
    short.assert_outcomes(passed=1, skipped=1)
    short.stdout.fnmatch_lines(["*by category*dev*+0.0 pts in (pooled: *PASS"])


def test_workers_records_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What several processes judged by the same field is one slicing, and asked for where one of them asked."""
    monkeypatch.chdir(tmp_path)
    experiment = make_tickets(dataset=Dataset(dev=tickets(range(4))), stages=[])
    rules = {"near_duplicates": "off", "near_duplicates_from": 0.8, "selection_leak": "off", "correction": "none"}
    options = Options("local", "local", tmp_path, Prices(), 0.05, **rules)
    records = SessionRecords(options)
    for gate in (Gate.parse("baseline >= 10%"), Gate.parse("baseline >= 10%", by="category", min_n=2)):
        worker, ladder = SessionRecords(options, travels=True), Ladder(experiment, tmp_path / "store")
        ladder.judge(gate)
        packed = worker.pack([ladder])
        assert packed is not None
        records.unpack(packed)
        assert '"slices": []' in (worker.pack([ladder]) or '"slices": []'), "sent once"
    record = records.experiment("tickets")
    assert record is not None
    assert [(s.by, s.on, s.source, s.asked) for s in record.slices] == [
        ("category", "dev", "label", True),
        ("urgent", "dev", "label", False),
    ]
    assert {name: len(ids) for name, ids in record.slices[0].groups.items()} == dict.fromkeys(sorted(CATEGORIES), 4)
