"""Mistakes in settings of optimizers and of fine-tuning, and packages that are missing."""

from __future__ import annotations

from tests.mistakes.mistake import Mistake

_ALL = ("--dspy-stage=all",)
_TUNED = {"gate": '"tuned >= 40%"'}
_LOCAL = {"requested": "dspy_lm", "lm": "dspy_lm"}
_OPENAI = "dspy.LM('openai/gpt-4o-mini-2024-07-18', api_key='sk-none-of-this-is-real')"


def _tuned(optimizer: str, further: str = "", **declared: str) -> dict[str, str]:
    return {"stages": f"Stage('tuned', {optimizer}{further})", **declared}


def _mistake(
    name: str,
    what: tuple[str, ...],
    right: tuple[str, ...],
    declared: dict[str, str],
    *arguments: str,
    missing: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> Mistake:
    return Mistake(
        name,
        what,
        ("'tuned'",),
        right,
        declared=declared,
        tested=_TUNED,
        arguments=(*_ALL, *arguments),
        missing=missing,
        environment=environment or {},
    )


_FT = "dspy.BootstrapFinetune(metric=right_label, train_kwargs={})"

TUNING = (
    _mistake(
        "a setting of training that is misspelt",
        ("'learning_rte'",),
        ("'learning_rate'",),
        _tuned(_FT.format("{'learning_rte': 1e-3}"), **_LOCAL),
    ),
    _mistake(
        "epochs in words", ("epochs='two'",), ("whole number",), _tuned(_FT.format("{'epochs': 'two'}"), **_LOCAL)
    ),
    _mistake(
        "another library's name of a setting",
        ("'num_train_epochs'",),
        ("'epochs'",),
        _tuned(_FT.format("{'num_train_epochs': 2}"), **_LOCAL),
    ),
    _mistake(
        "a misspelt setting inside BetterTogether",
        ("'learning_rte'", "step 'w'"),
        ("'learning_rate'",),
        _tuned(
            "dspy.BetterTogether(metric=right_label, p=dspy.LabeledFewShot(), w="
            + _FT.format("{'learning_rte': 1e-3}")
            + ")",
            **_LOCAL,
        ),
    ),
    _mistake(
        "a setting that a launcher cannot share out",
        ("cannot be shared out among 16 processes",),
        ("use at most 8",),
        _tuned(_FT.format("{}"), **_LOCAL),
        "--dspy-train=torchrun:16",
    ),
    _mistake(
        "a misspelt setting of a hosted training",
        ("'n_epoch'",),
        ("'n_epochs'",),
        _tuned(_FT.format("{'n_epoch': 2}"), lm=_OPENAI),
    ),
    _mistake(
        "a hosted service that there is not",
        ("no such service", "'opnai'"),
        ("did you mean 'openai'?",),
        _tuned(_FT.format("{'service': 'opnai'}"), lm=_OPENAI),
    ),
    _mistake(
        "a fine-tuned LM that no provider trains",
        ("cannot be fine-tuned",),
        ("--dspy-lm=local",),
        _tuned(_FT.format("{}"), lm="dspy.LM('anthropic/claude-x', api_key='sk-none-of-this-is-real')"),
    ),
    _mistake(
        "a fine-tuned DummyLM",
        ("cannot be fine-tuned",),
        ("--dspy-lm=local",),
        _tuned(_FT.format("{}"), lm="dspy.utils.DummyLM([{'label': 'odd'}] * 100)"),
    ),
    Mistake(
        "an adapter that writes no training rows",
        ("Plain cannot write training rows",),
        ("'tuned'", "conftest.py:10"),
        ("ChatAdapter",),
        tested=_TUNED,
        arguments=_ALL,
        files={
            "conftest.py": "import dspy, pytest\nfrom parity import make_experiment, right_label\n"
            "from pytest_dspy_ft import Stage\n\nclass Plain(dspy.Adapter):\n    pass\n\nTUNED = Stage('tuned', "
            "dspy.BootstrapFinetune(metric=right_label))\n\n@pytest.fixture\ndef dspy_experiment():\n"
            "    return make_experiment('tickets', adapter=Plain(), stages=[TUNED])\n"
        },
    ),
    _mistake(
        "an argument of compile that there is not",
        ("takes no 'valst'",),
        ("did you mean 'valset'?",),
        _tuned("dspy.MIPROv2(metric=right_label, auto='light')", ", compile_args={'valst': examples(range(200, 220))}"),
    ),
    _mistake(
        "a teacher for an optimizer that takes none",
        ("takes no teacher",),
        ("leave out teacher=",),
        _tuned("dspy.LabeledFewShot(k=3)", ", teacher='baseline'"),
    ),
    _mistake("an accept outside of [0, 1]", ("accept=70",), ("0.7",), _tuned(_FT.format("{}"), ", accept=70")),
    _mistake(
        "nothing to learn from",
        ("train split is empty",),
        ("Dataset",),
        _tuned("dspy.LabeledFewShot(k=3)", dataset="Dataset(dev=examples(range(20)))"),
    ),
    _mistake(
        "labels that cannot teach",
        ("labels cannot teach", "no train example has reasoning"),
        ("dspy.Predict",),
        _tuned("LabeledFinetune(metric=right_label)", program="dspy.ChainOfThought(Labels)", **_LOCAL),
    ),
    _mistake(
        "an optimizer's metric of one argument",
        ("metric", "cannot be called"),
        ("(example, prediction",),
        _tuned("dspy.BootstrapFinetune(metric=len)", **_LOCAL),
    ),
    _mistake(
        "a strategy of steps that there are not",
        ("names the step 'x'",),
        ("'p -> w'",),
        _tuned(
            "dspy.BetterTogether(metric=right_label, p=dspy.LabeledFewShot(), w=" + _FT.format("{}") + ")",
            ", compile_args={'strategy': 'p -> x'}",
            **_LOCAL,
        ),
    ),
    _mistake(
        "MIPROv2 without optuna",
        ("MIPROv2 needs optuna",),
        ("pip install 'dspy[optuna]'",),
        _tuned("dspy.MIPROv2(metric=right_label, auto='light')"),
        missing=("optuna",),
    ),
    _mistake(
        "a launched training without trl",
        ("TRL, which is not installed",),
        ('pip install "pytest-dspy-ft[trl]"',),
        _tuned(_FT.format("{}"), **_LOCAL),
        "--dspy-train=torchrun",
        missing=("trl",),
    ),
    _mistake(
        "a training at Together without its client",
        ("training at Together needs its client",),
        ("pip install 'pytest-dspy-ft[together]'",),
        _tuned(_FT.format("{}"), lm="dspy.LM('together_ai/meta-llama/x', api_key='sk-none-of-this-is-real')"),
        missing=("together",),
    ),
    _mistake(
        "a hosted training without a key",
        ("no key for https://api.openai.com/v1",),
        ("OPENAI_API_KEY",),
        _tuned(_FT.format("{}"), lm="dspy.LM('openai/gpt-4o-mini-2024-07-18')"),
    ),
)
