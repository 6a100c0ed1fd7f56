"""Language models by name: ``local``, ``local:PATH-or-HF-ID``, or any DSPy model string."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.constants import IN_ADAPTERS_FORMAT, MODEL_PREFIX
from pytest_dspy_ft.errors import LMError

if TYPE_CHECKING:
    import dspy

EMBEDDED = "smollm2-135m"

_PLACEHOLDER = "unset/no-lm-is-configured-here"


def resolve_lm(name: str, *, runnable: bool = True, constrained: bool = False, **settings: Any) -> dspy.LM:
    """The LM that a name stands for.

    Args:
        name: ``local`` for the embedded SmolLM2-135M-Instruct, ``local:PATH-or-HF-ID`` for another causal LM run on
            this machine, or a DSPy model string such as ``openai/gpt-4o-mini``.
        runnable: Make sure that a local LM can be called. A session that only looks results up needs no more than to
            know which LM they are of, and so none of its packages.
        constrained: Have a local LM keep every reply to the format of the adapter that asks it: what is not cut off can
            be read, ``Literal``, ``Enum`` and ``bool`` fields hold one of their values. Part of the LM's identity.
        **settings: Passed to ``dspy.LM`` (``temperature=``, ``max_tokens=``, ...).

    Returns:
        The LM. A local LM loads its weights when it is first called, not here.

    Raises:
        LMError: If the name stands for nothing.
        MissingDependencyError: If a local LM's packages or weights are not installed.
    """
    name = name.strip()
    if name == "local":
        name = MODEL_PREFIX + EMBEDDED
    if name.startswith(MODEL_PREFIX):
        kept = {"response_format": dict(IN_ADAPTERS_FORMAT)} if constrained else {}
        return _local_lm(name.removeprefix(MODEL_PREFIX), {**kept, **settings}, runnable)
    provider, slash, model = name.partition("/")
    if not (provider and slash and model):
        raise LMError(
            f"unknown LM {name!r}: use 'local' (the embedded model), 'local:PATH-or-HF-ID', "
            "or a DSPy model string with its provider, such as 'openai/gpt-4o-mini'"
        )
    if constrained:
        raise LMError(f"{name!r} cannot be constrained to an adapter's format: only LMs that run on this machine can")
    _check_provider(name, provider)
    import dspy

    return dspy.LM(name, **settings)


def is_local_name(name: str) -> bool:
    """True for the name of an LM of this machine."""
    name = name.strip()
    return name == "local" or name.startswith(MODEL_PREFIX)


def is_local(lm: Any) -> bool:
    """True for an LM that runs in this process, so that its answers cost nothing and do not drift."""
    return str(getattr(lm, "model", "")).startswith(MODEL_PREFIX)


def runs_here(lm: Any) -> bool:
    """True for a model of this machine that no server answers for: asking it is computing, and waits for nobody."""
    return is_local(lm) and type(getattr(lm, "engine", None)).__name__ != "ServedEngine"


def placeholder() -> Any:
    """An LM for optimizers that refuse to be made where none is configured; a stage puts its own in its place."""
    import dspy

    return dspy.LM(_PLACEHOLDER)


def is_placeholder(lm: Any) -> bool:
    """True for what :func:`placeholder` gives."""
    return getattr(lm, "model", None) == _PLACEHOLDER


def may_change(lm: Any) -> bool:
    """True for an LM that may answer otherwise tomorrow though its name stays: one that is not on this machine.

    On this machine are ``local`` models, known by their weights, DSPy's ``DummyLM``, and LMs whose ``engine`` is an
    object of this process that is not DSPy's own: its ``identity()`` or its class and state are part of every key. All
    else may change: hosted models, servers (one on localhost too: what it serves, or hands on, is not known here),
    models of this machine that a server answers for, LM classes of the user's own, which may ask anybody. An engine
    object that hands on to a service says so with an attribute ``hosted = True``.
    """
    if type(lm).__name__ == "DummyLM" and type(lm).__module__.startswith("dspy."):
        return False
    engine = getattr(lm, "engine", None)
    if engine is None or isinstance(engine, str):
        return True
    is_reached = type(engine).__module__.startswith("dspy.") or type(engine).__name__ == "ServedEngine"
    return is_reached or bool(getattr(engine, "hosted", False))


def concurrency(lm: Any, default: int = 8) -> int:
    """How many calls at once suit an LM: what its engine prefers, else DSPy's own default."""
    return int(getattr(getattr(lm, "engine", None), "preferred_concurrency", default))


def begin_work(lm: Any) -> None:
    """Let an engine that samples start its sequence of samples anew, so that each piece of work repeats by itself."""
    reset = getattr(getattr(lm, "engine", None), "reset_sampling", None)
    if callable(reset):
        reset()


def _check_provider(name: str, provider: str) -> None:
    """Refuse a provider that nothing here could reach, before any example is spent on it."""
    from dspy.lm15 import registered_providers

    declared = {provider_.id for provider_ in registered_providers()}
    try:
        from litellm.types.utils import LlmProviders
    except ImportError:  # optional from DSPy 3.5 on
        return
    known = {member.value for member in LlmProviders} | declared
    if provider not in known:
        import difflib

        close = difflib.get_close_matches(provider, sorted(known), n=3)
        hint = f"did you mean {' or '.join(f'{c}/...' for c in close)}" if close else "for example openai/gpt-4o-mini"
        raise LMError(f"unknown LM {name!r}: no provider is called {provider!r}; {hint}")


def _local_lm(source: str, settings: dict[str, Any], runnable: bool) -> dspy.LM:
    from pytest_dspy_ft.local.engine import LocalEngine
    from pytest_dspy_ft.local.provider import LocalProvider
    from pytest_dspy_ft.local.weights import check_available, resolve_source

    model = resolve_source(source)
    if runnable:
        check_available(model)
    import dspy

    engine = LocalEngine.shared(source)
    # Answers are not cached by DSPy: its key knows a model's name, not its weights.
    return dspy.LM(f"{MODEL_PREFIX}{source}", engine=engine, provider=LocalProvider(engine), cache=False, **settings)
