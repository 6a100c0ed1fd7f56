"""Mistakes in gates and markers."""

from __future__ import annotations

from tests.mistakes.mistake import Mistake

_HERE = ("test_it.py:4", "test_it")

GATES = (
    Mistake("a gate with =>", ("=>",), _HERE, (">=",), tested={"gate": '"baseline => 40%"'}),
    Mistake("a gate without a comparison", ("comparison",), _HERE, (">=",), tested={"gate": '"baseline"'}),
    Mistake(
        "a stage that there is not",
        ("no stage `finetuend`",),
        _HERE,
        ("taught",),
        tested={"gate": '"finetuend >= 40%"'},
    ),
    Mistake("a percentage of 88 without %", ("88",), _HERE, ("88%",), tested={"gate": '"baseline >= 88"'}),
    Mistake(
        "a gate that can only pass",
        ("this gate can only pass",),
        _HERE,
        ("`baseline >= 80%`",),
        tested={"gate": '"baseline >= 0"'},
    ),
    Mistake(
        "a misspelt argument of a marker",
        ("unexpected keyword argument 'confidense'",),
        _HERE,
        ("did you mean 'confidence'?",),
        tested={"gate": '"baseline >= 40%", confidense=0.9'},
    ),
    Mistake("a confidence of 95", ("95",), _HERE, ("0.95",), tested={"gate": '"baseline >= 40%", confidence=95'}),
    Mistake(
        "a split that there is not", ("'tset'",), _HERE, ("test",), tested={"gate": '"baseline >= 40%", on="tset"'}
    ),
    Mistake(
        "a gate on an empty split",
        ("test", "empty"),
        _HERE,
        ("Dataset", "on="),
        declared={"dataset": "Dataset(train=examples(range(80)), dev=examples(range(80, 90)))"},
        tested={"gate": '"baseline >= 40%", on="test"'},
    ),
    Mistake(
        "a marker that is misspelt",
        ("dspy_gates",),
        ("test_it.py:3", "test_it"),
        ("dspy_gate",),
        tested={"above": "@pytest.mark.dspy_gates('baseline >= 40%')"},
    ),
    Mistake(
        "a slice by a field that there is not",
        ("'lenght'",),
        _HERE,
        ("label",),
        tested={"gate": '"baseline >= 40%", by="lenght"'},
    ),
    Mistake("a metric that there is not", ("f1",), _HERE, ("metrics=",), tested={"gate": '"f1(baseline) >= 40%"'}),
    Mistake(
        "two expressions in one gate",
        ("comparison",),
        _HERE,
        ("one",),
        tested={"gate": '"baseline >= 40% and baseline <= 90%"'},
    ),
    Mistake(
        "a bootstrap rate of a stage that collects none",
        ("bootstrap_rate(baseline)",),
        _HERE,
        ("dspy.BootstrapFinetune",),
        tested={"gate": '"bootstrap_rate(baseline) >= 40%"'},
    ),
)
