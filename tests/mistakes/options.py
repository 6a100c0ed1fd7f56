"""Mistakes on the command line, in the ini file, and with LMs, keys and servers."""

from __future__ import annotations

from tests.mistakes.mistake import Mistake

_DSPY_LM = {"requested": "dspy_lm", "lm": "dspy_lm"}
_UP_TO = ("--dspy-stage=all",)

OPTIONS = (
    Mistake(
        "a stage of --dspy-stage that there is not",
        ("'finetine'",),
        ("--dspy-stage",),
        ("finetune",),
        arguments=("--dspy-stage=finetine",),
    ),
    Mistake(
        "a stage of --dspy-rebuild that there is not",
        ("'taugt'",),
        ("--dspy-rebuild",),
        ("taught",),
        arguments=("--dspy-rebuild=taugt",),
    ),
    Mistake("a limit of 0", ("'0'",), ("--dspy-limit",), ("at least 1",), arguments=("--dspy-limit=0",)),
    Mistake(
        "a confidence in per cent", ("'95'",), ("--dspy-confidence",), ("0.95",), arguments=("--dspy-confidence=95",)
    ),
    Mistake("a cost with a currency", ("'5$'",), ("--dspy-max-cost",), ("5",), arguments=("--dspy-max-cost=5$",)),
    Mistake(
        "an option that is misspelt",
        ("no option --dspy-stages",),
        ("--dspy-stages",),
        ("did you mean --dspy-stage?",),
        arguments=("--dspy-stages=all",),
    ),
    Mistake(
        "a report of no known format",
        ("results.pdf",),
        ("--dspy-report",),
        (".html",),
        arguments=("--dspy-report=results.pdf",),
    ),
    Mistake(
        "a baseline that is not there",
        ("nowhere.json",),
        ("--dspy-compare",),
        ("--dspy-save-baseline",),
        arguments=("--dspy-compare=nowhere.json",),
    ),
    Mistake(
        "a launcher that there is not",
        ("'torchrum'",),
        ("--dspy-train",),
        ("torchrun",),
        arguments=("--dspy-train=torchrum",),
    ),
    Mistake(
        "a server without a scheme",
        ("localhost:8000",),
        ("--dspy-serve",),
        ("http://",),
        arguments=("--dspy-serve=localhost:8000",),
    ),
    Mistake(
        "a number of threads in words",
        ("'lots'",),
        ("tox.ini", "dspy_num_threads"),
        ("at least 1",),
        files={"tox.ini": "[pytest]\ndspy_num_threads = lots\n"},
    ),
    Mistake(
        "a price in words",
        ("'cheap'",),
        ("tox.ini", "dspy_prices"),
        ("INPUT OUTPUT",),
        files={"tox.ini": "[pytest]\ndspy_prices =\n    openai/gpt-4o = cheap\n"},
    ),
    Mistake(
        "a name of the ini file that is misspelt",
        ("dspy_stagee",),
        ("tox.ini",),
        ("dspy_stage",),
        files={"tox.ini": "[pytest]\ndspy_stagee = all\n"},
    ),
    Mistake(
        "an LM without its provider",
        ("'gpt-4o-mini'",),
        ("--dspy-lm",),
        ("openai/gpt-4o-mini",),
        declared=_DSPY_LM,
        arguments=("--dspy-lm=gpt-4o-mini",),
    ),
    Mistake(
        "a provider that is misspelt",
        ("'opnai'",),
        ("--dspy-lm",),
        ("openai/",),
        declared=_DSPY_LM,
        arguments=("--dspy-lm=opnai/gpt-4o-mini",),
    ),
    Mistake(
        "a folder of a model that is not there",
        ("/no/such/folder",),
        ("--dspy-lm",),
        ("folder",),
        declared=_DSPY_LM,
        arguments=("--dspy-lm=local:/no/such/folder",),
    ),
    Mistake(
        "no key for the LM",
        ("there is no key",),
        ("openai/gpt-4o-mini",),
        ("OPENAI_API_KEY",),
        declared=_DSPY_LM,
        own_process=True,
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        arguments=("--dspy-lm=openai/gpt-4o-mini",),
    ),
    Mistake(
        "no key for the teacher",
        ("there is no key",),
        ("openai/gpt-4o-mini", "strong"),
        ("OPENAI_API_KEY",),
        declared={"stages": "Stage('strong', lm=dspy.LM('openai/gpt-4o-mini'))"},
        tested={"gate": '"strong >= baseline"'},
        arguments=_UP_TO,
    ),
    Mistake(
        "a server that is not up",
        ("nobody listens",),
        ("127.0.0.1:9", "strong", "openai/x"),
        ("start the server", "api_base"),
        declared={
            "stages": "Stage('strong', lm=dspy.LM('openai/x', api_base='http://127.0.0.1:9/v1', api_key='none'))"
        },
        tested={"gate": '"strong >= baseline"'},
        arguments=_UP_TO,
    ),
    Mistake(
        "--dspy-serve where nobody listens",
        ("refused",),
        ("--dspy-serve", "127.0.0.1:9"),
        ("start it",),
        declared=_DSPY_LM,
        own_process=True,
        arguments=("--dspy-serve=http://127.0.0.1:9/v1",),
    ),
)
