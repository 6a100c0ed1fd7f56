"""What a result rests on: recorded while the work runs, and held against today's code before it is believed."""

from __future__ import annotations

import contextlib
import importlib
import re
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pytest_dspy_ft.fingerprint.source import code_digest, references, source_index
from pytest_dspy_ft.provenance.call_graph import reachable
from pytest_dspy_ft.provenance.following import follower
from pytest_dspy_ft.provenance.modules import Modules
from pytest_dspy_ft.provenance.state import State, state_named, state_of
from pytest_dspy_ft.records.footprint import NOT_COMPARED, Footprint

_changing: set[tuple[str, str, str]] = set()
"""State that running was seen to change in this process: file, name and attribute. It counts in no later record either,
since a later process finds it as it was declared."""

_PAUSE = 2.0
"""Seconds between two looks at what was seen so far."""

CHANGING = "changes while it runs"

_COMPREHENSION = re.compile(r"\.<locals>\.<(listcomp|setcomp|dictcomp|genexpr)>")


class Provenance:
    """What some objects of an experiment lead to, and records of what ran for the results made with them.

    Args:
        roots: The program, the metric, the adapter, optimizers: all that the work is declared with.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self._graph = reachable(roots)

    @classmethod
    def together(cls, *parts: Provenance) -> Provenance:
        """What several parts of some work lead to."""
        whole = cls(())
        for part in parts:
            whole._graph.functions.update(part._graph.functions)
        return whole

    def modules(self) -> Modules:
        """Today's modules, those of the declaration first."""
        return Modules(self._graph.functions.values())

    def following(self, modules: Modules | None = None, *, aside: bool = False) -> Following:
        """Begin to record: what is declared is noted as it is now.

        Args:
            modules: Names modules; records that are joined have to share one. None: its own.
            aside: Only what runs in calls of its own counts, not what runs beside them.
        """
        return Following(self._graph.codes, modules or self.modules(), aside=aside)

    def labels(self) -> set[str]:
        """All that the declaration leads to, as footprints call it: functions, and what they refer to by name."""
        modules = self.modules()
        functions = {f"{modules.name_of(code)}:{_qualname(code)}" for code in self._graph.codes}
        return functions | self.state_read()

    def state_read(self) -> set[str]:
        """What the functions that are declared refer to by name, as footprints call it."""
        return set(state_of(self._graph.codes, self.modules()).values)

    def changes(self, footprint: Footprint) -> list[str]:
        """What is not as it was when a record was made: functions and values by name, in alphabetical order."""
        modules = self.modules()
        found: set[str] = set()
        places = {name: modules.find(name, file) for name, file in footprint.modules.items()}
        for label, digest in footprint.functions.items():
            home, _, qualname = label.partition(":")
            file, space = places.get(home, (None, None))
            if digest not in _digests_today(file, space, qualname):
                found.add(_shown(label))
        for label, digests in footprint.state.items():
            home, _, name = label.partition(":")
            space = places.get(home, (None, None))[1]
            if space is not None:
                found |= _changed_state(label, digests, _resolve(space, name))
        return sorted(found)


class Following:
    """A record in the making.

    Args:
        declared: Code objects that the declaration leads to.
        modules: Where they live.

    Attributes:
        follower: Told of the calls that are made.
        seen: Told of the footprint so far, now and then: what was seen must not be lost with an interrupted process.
    """

    def __init__(self, declared: Iterable[types.CodeType], modules: Modules, *, aside: bool = False) -> None:
        self._declared = list(declared)
        self._modules = modules
        self._noted = state_of(self._declared, modules).values
        self._earlier: list[Footprint] = []
        self._calls = 0
        self._lock = threading.Lock()
        self._told = -_PAUSE
        self.follower = follower(aside=aside)
        self.seen: Callable[[Footprint], None] = lambda footprint: None

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """One call of the program or of its metric, in the thread that makes it."""
        with self.follower.one():
            yield
        with self._lock:
            self._calls += 1
            notable = self._calls & (self._calls - 1) == 0 and time.monotonic() - self._told > _PAUSE
            if notable:
                self._told = time.monotonic()
        if notable:  # also the state after the first call: what later calls make of it tells what running changes
            self.seen(self.footprint())

    def rest_on(self, *earlier: Footprint | None) -> None:
        """Have what earlier parts of the same work rest on be part of this record."""
        self._earlier += [footprint for footprint in earlier if footprint is not None]

    def footprint(self) -> Footprint:
        """The record of what ran so far, earlier parts included."""
        codes = self._all_codes()
        state = state_of(codes, self._modules)
        self._note(state)
        unseen = {*state.unseen, *([self.follower.hindrance] if self.follower.hindrance else [])}
        values: dict[str, dict[str, str]] = {}
        for label, digests in state.values.items():
            file = self._modules.files.get(label.partition(":")[0], "")
            changing = {a for a in digests if (file, label, a) in _changing}
            values[label] = {a: NOT_COMPARED if a in changing else digest for a, digest in digests.items()}
            unseen |= {f"{_shown(label, a)} {CHANGING}" for a in changing}
        functions = {self._label(code): digest for code in codes if (digest := _digest_of(code)) is not None}
        made = Footprint(
            modules=dict(sorted(self._modules.files.items())),
            functions=dict(sorted(functions.items())),
            state=dict(sorted(values.items())),
            unseen=tuple(sorted(unseen)),
            followed=round(self.follower.share, 4),
        )
        for earlier in reversed(self._earlier):
            made = joined(earlier, made)
        return made

    def _all_codes(self) -> list[types.CodeType]:
        """All that ran, and what it refers to: a cache may stand in for a function that ran before."""
        codes = {id(code): code for code in (*self._declared, *self.follower.codes)}
        declared = {id(code) for code in self._declared}
        referred = (
            references(code, self._modules.namespace_of(code)) for key, code in codes.items() if key not in declared
        )
        reached = reachable(value for values in referred for value in values.values())
        return list({**codes, **{id(code): code for code in reached.codes}}.values())

    def _note(self, state: State) -> None:
        """Hold state against what it was when it was first seen, and remember what changed."""
        for label, digests in state.values.items():
            known = self._noted.setdefault(label, digests)
            file = self._modules.files.get(label.partition(":")[0], "")
            for attribute in known.keys() | digests.keys():
                if known.get(attribute) != digests.get(attribute):
                    _changing.add((file, label, attribute))

    def _label(self, code: types.CodeType) -> str:
        return f"{self._modules.name_of(code)}:{_qualname(code)}"


def joined(earlier: Footprint, later: Footprint) -> Footprint:
    """What two parts of some work rest on together."""
    return Footprint(
        modules={**earlier.modules, **later.modules},
        functions={**earlier.functions, **later.functions},
        state={**earlier.state, **later.state},
        unseen=tuple(sorted({*earlier.unseen, *later.unseen})),
        followed=min(earlier.followed, later.followed),
    )


def _qualname(code: types.CodeType) -> str:
    """The function that a code object is, or is a comprehension in."""
    return _COMPREHENSION.split(code.co_qualname)[0]


def _digest_of(code: types.CodeType) -> str | None:
    """The digest of the function that a code object is; None for a comprehension."""
    qualname = _qualname(code)
    if qualname != code.co_qualname:
        return None  # its function ran too, or gave it away: that is the one to be compared
    written = source_index(code.co_filename).get(qualname, ())
    here = [function.digest for function in written if function.firstlineno == code.co_firstlineno]
    if here:
        return here[0]
    return written[0].digest if len(written) == 1 else code_digest(code)


def _digests_today(file: str | None, space: Mapping[str, Any] | None, qualname: str) -> set[str]:
    """The digests of all functions of this name in a module as it is now."""
    found = {function.digest for function in source_index(file).get(qualname, ())} if file is not None else set()
    if not found and space is not None and "<locals>" not in qualname:
        value: Any = space.get(qualname.partition(".")[0])
        for part in qualname.split(".")[1:]:
            value = vars(value).get(part) if isinstance(value, type) else None
        function = getattr(value, "__func__", value)
        if isinstance(function, types.FunctionType):
            found.add(code_digest(function.__code__))
    return found


_MISSING = object()


def _resolve(space: Mapping[str, Any], name: str) -> Any:
    """The object that a name of :func:`pytest_dspy_ft.fingerprint.source.references` means in a module now."""
    first, *rest = name.split(".")
    value: Any = space.get(first, _MISSING)
    if value is _MISSING:
        value = _imported(first)
    for part in rest:
        if isinstance(value, types.ModuleType):
            inside = vars(value).get(part, _MISSING)
            value = _imported(f"{value.__name__}.{part}") if inside is _MISSING else inside
        else:
            value = vars(value).get(part, _MISSING) if isinstance(value, type) else _MISSING
    return value


def _imported(name: str) -> Any:
    """A module that code imported when it ran."""
    try:
        return importlib.import_module(name)
    except Exception:  # whatever it raises; it counts as gone
        return _MISSING


def _changed_state(label: str, digests: Mapping[str, str], value: Any) -> set[str]:
    if value is _MISSING:
        return {_shown(label)}
    today = state_named(label, value)
    return {
        _shown(label, attribute)
        for attribute in digests.keys() | today.keys()
        if NOT_COMPARED not in (digests.get(attribute), today.get(attribute))
        and digests.get(attribute) != today.get(attribute)
    }


def _shown(label: str, attribute: str = "") -> str:
    """A label as people write it: ``ourapp.text.normalize``."""
    home, _, name = label.partition(":")
    shown = f"{home.partition('#')[0]}.{name}".replace(".<locals>", "")
    return f"{shown}.{attribute}" if attribute else shown
