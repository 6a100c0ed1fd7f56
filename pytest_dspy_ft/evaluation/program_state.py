"""The state of a program: all that makes it another one than the program it was made from, as JSON, and put back.

Changes name a place in the program and what stands there now: prompts and demos, and just as well attributes of its
modules and objects, fields of signatures, LMs, modules added or put elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy
from pydantic import BaseModel

from pytest_dspy_ft.evaluation.anatomy import Anatomy, module_attributes, same, shown, written_class
from pytest_dspy_ft.evaluation.known import DSPY_MODULES, Known, full_name
from pytest_dspy_ft.evaluation.lm_state import read_lm, write_lm
from pytest_dspy_ft.evaluation.programs import copy_program
from pytest_dspy_ft.evaluation.signature_state import read_signature, write_signature
from pytest_dspy_ft.evaluation.values import Path, Reader, UnkeptError, Writer, attributes, place
from pytest_dspy_ft.fingerprint import is_user_code

Change = dict[str, Any]
"""``{"at": path}`` with ``"set"``: a value as tagged JSON, or ``"drop": true``."""


class StateWriter(Writer):
    """Finds out what makes a program another one than its start, and writes it down.

    Args:
        start: A fresh copy of the program that it was made from.
        built: The program.
        known: What classes, functions and LMs may be named.
        trained: Tells of a predictor's path whether its LM is kept with the trained models.

    Attributes:
        changes: What is different, in the order in which it is put back.
        lost: What is different and cannot be written down.
    """

    def __init__(self, start: Any, built: Any, known: Known, trained: Callable[[Path], bool] = lambda _: False) -> None:
        super().__init__()
        self._known, self._trained = known, trained
        self._start, self._built = Anatomy(start), Anatomy(built)
        self.changes: list[Change] = []
        self.lost: list[UnkeptError] = []
        self._trying: set[tuple[Path, Path]] = set()
        self._bases: list[tuple[Path, Path]] = [((), ())]
        self._compare(start, (), built, ())

    # --- what is different -------------------------------------------------------------------------------------------

    def _compare(self, old: Any, old_path: Path, new: Any, path: Path) -> None:
        if same(self._start.nodes.get(old_path), self._built.nodes.get(path)):
            return
        if isinstance(new, dspy.Module) and self._alike(old, old_path, new, path):
            return
        before = len(self.changes), len(self.lost)
        if (parts := self._parts(old, old_path, new, path)) is None:
            self._set(new, path, old)
            return
        old_parts, new_parts, step = parts
        for name, part in new_parts.items():
            below = (*path, (step, name))
            if name in old_parts:
                if not (name == "lm" and self._trained(path)):
                    self._compare(old_parts[name], (*old_path, (step, name)), part, below)
            else:
                self._set(part, below)
        dropped = [
            {"at": _write_path((*path, (step, name))), "drop": True} for name in old_parts if name not in new_parts
        ]
        self.changes += dropped
        if len(self.lost) > before[1]:  # it may still be kept as a whole
            changes, lost = self.changes[before[0] :], self.lost[before[1] :]
            del self.changes[before[0] :], self.lost[before[1] :]
            self._set(new, path)
            if len(self.lost) > before[1]:
                self.changes[before[0] :], self.lost[before[1] :] = changes, lost

    def _alike(self, old: Any, old_path: Path, new: Any, path: Path) -> bool:
        """True for modules that are one with others at the same place, counted from what is being compared."""
        first, second = self._start.place_of(old), self._built.place_of(new)
        (old_base, base) = self._bases[-1]
        return (
            first not in (None, old_path)
            and second not in (None, path)
            and (first[: len(old_base)], second[: len(base)]) == (old_base, base)
            and first[len(old_base) :] == second[len(base) :]
        )

    def _parts(
        self, old: Any, old_path: Path, new: Any, path: Path
    ) -> tuple[dict[Any, Any], dict[Any, Any], str] | None:
        """The parts of two values that are of one kind and hold parts that can be changed one by one."""
        if written_class(old) is not written_class(new):
            return None
        if isinstance(new, dspy.Module):
            if self._built.place_of(new) != path or "same" in self._start.nodes[old_path]:
                return None
            return module_attributes(old, path), module_attributes(new, path), "attribute"
        if type(new) is list and len(old) == len(new) and _holds_more(new):
            return dict(enumerate(old)), dict(enumerate(new)), "item"
        if type(new) is dict and list(old) == list(new) and _holds_more(new.values()):
            return old, new, "key"
        if isinstance(new, BaseModel) and _holds_more(vars(new).values()):
            return vars(old), vars(new), "attribute"
        if isinstance(new, (type, dspy.BaseLM, dspy.Example, BaseModel)) or not hasattr(new, "__dict__"):
            return None
        of_dspy = type(new).__module__.startswith("dspy.")
        if "live" in self._start.nodes[old_path] or not (is_user_code(type(new)) or of_dspy):
            return None
        return attributes(old), attributes(new), "attribute"

    def _set(self, value: Any, path: Path, old: Any = None) -> None:
        try:
            written = self._signature(value, old, path) if _is_signature(value) else self.write(value, path)
        except UnkeptError as error:
            self.lost.append(error)
        else:
            self.changes.append({"at": _write_path(path), "set": written})

    # --- values that are no data -------------------------------------------------------------------------------------

    def named(self, cls: type, path: Path) -> str:
        """The name of a class that may be named."""
        if (name := self._known.name_of_class(cls)) is None:
            raise UnkeptError(
                path,
                f"its class {full_name(cls)} is not among those that program, data and optimizer have; give it to a "
                "field, or make it a global of the module that the optimizer is in",
            )
        return name

    def other(self, value: Any, path: Path) -> Any:
        """Modules, LMs, signatures, functions."""
        if isinstance(value, dspy.Module):
            return self._module(value, path)
        if isinstance(value, dspy.BaseLM):
            return {"$lm": write_lm(value, self._known.lms, path)}
        if _is_signature(value):
            return self._signature(value, None, path)
        if isinstance(value, type):
            return {"$class": self.named(value, path)}
        if (name := self._known.name_of_function(value)) is not None:
            return {"$function": name}
        raise UnkeptError(path, f"{shown(self._built.nodes.get(path, full_name(type(value))))} is not data")

    def object(self, value: Any, kind: type, path: Path) -> Any:
        """An object of the user's."""
        return (
            self.other(value, path)
            if isinstance(value, dspy.Module | dspy.BaseLM)
            else super().object(value, kind, path)
        )

    def _signature(self, value: Any, old: Any, path: Path) -> Any:
        return {"$signature": write_signature(value, old if _is_signature(old) else None, self, path)}

    def _module(self, module: Any, path: Path) -> Any:
        first = self._built.place_of(module)
        if first is not None and first != path:
            return {"$same": _write_path(first)}
        if (found := self._ensemble(module, path)) is not None:
            return found
        cls = written_class(module)
        alike = [place_ for place_, other in self._start.modules.items() if written_class(other) is cls]
        template = path if path in alike else next(iter(alike), None)
        if template is not None and (template, path) not in self._trying:
            self._trying.add((template, path))
            self._bases.append((template, path))
            changes, lost = self.changes, self.lost
            self.changes, self.lost = [], []
            try:
                self._compare(self._start.modules[template], template, module, path)
                made = [{**change, "at": change["at"][len(path) :]} for change in self.changes]
                failed = bool(self.lost) or not all(change["at"] for change in made)
            finally:
                self.changes, self.lost = changes, lost
                self._trying.discard((template, path))
                self._bases.pop()
            if not failed:
                return {"$copy": {"of": _write_path(template), "at": _write_path(path), "changes": made}}
        if cls not in DSPY_MODULES and not is_user_code(cls):
            raise UnkeptError(path, f"a {full_name(cls)} that the program did not have")
        held = {name: self._written_part(v, path, name) for name, v in module_attributes(module, path).items()}
        return {"$module": {"class": self.named(cls, path), "at": _write_path(path), "attributes": held}}

    def _written_part(self, value: Any, path: Path, name: str) -> Any:
        return self.write(value, (*path, ("attribute", name)))

    def _ensemble(self, module: Any, path: Path) -> Any:
        """The program that ``dspy.Ensemble`` makes: its class is made anew each time, around a size and a function."""
        cls = written_class(module)
        if full_name(cls) != _ENSEMBLE:
            return None
        forward: Any = vars(cls)["forward"]
        closure = dict(zip(forward.__code__.co_freevars, (c.cell_contents for c in forward.__closure__), strict=True))
        return {
            "$ensemble": {
                "size": closure.get("size"),
                "reduce_fn": self.write(closure.get("reduce_fn"), (*path, ("attribute", "reduce_fn"))),
                "programs": self._written_part(module.programs, path, "programs"),
            }
        }


class StateReader(Reader):
    """Puts changes from a :class:`StateWriter` on a program.

    Args:
        start: A fresh copy of the program that the changes were made from; it is changed.
        known: What classes, functions and LMs may be named.
    """

    def __init__(self, start: Any, known: Known) -> None:
        super().__init__(known.class_named)
        self._known, self._program = known, start
        self._pristine = copy_program(start)
        self._new: dict[Path, Any] = {}

    def apply(self, changes: list[Change]) -> Any:
        """The program with the changes made.

        Raises:
            ValueError: If a change does not fit the program, or names something that is not known.
        """
        for change in changes:
            self._program = self._change(self._program, change)
        return self._program

    def tagged(self, tag: str, content: Any) -> Any:
        """The value of a tag and its content."""
        match tag:
            case "lm":
                return read_lm(content, self._known.lms)
            case "class":
                return self.class_of(content)
            case "function":
                if (found := self._known.function_named(content)) is None:
                    raise ValueError(f"the function {content} is not among those that program and optimizer have")
                return found
            case "signature":
                return read_signature(content, None, self)
            case "same":
                return self._module_at(self._path(content))
            case "copy":
                made = self._new[self._path(content["at"])] = copy_program(
                    _at(self._pristine, self._path(content["of"]))
                )
                for change in content["changes"]:
                    made = self._change(made, change)
                return made
            case "module":
                return self._module(content)
            case "ensemble":
                parts = {name: self.read(content[name]) for name in ("size", "reduce_fn", "programs")}
                return dspy.Ensemble(reduce_fn=parts["reduce_fn"], size=parts["size"]).compile(parts["programs"])
        return super().tagged(tag, content)

    def _module_at(self, path: Path) -> Any:
        """The module at a place, also in a value that is being made and stands nowhere yet."""
        for length in range(len(path), -1, -1):
            if path[:length] in self._new:
                return _at(self._new[path[:length]], path[length:])
        return _at(self._program, path)

    def _module(self, content: Any) -> Any:
        cls: Any = self.class_of(content["class"])
        made = self._new[self._path(content["at"])] = cls.__new__(cls)
        dspy.Module.__init__(made)
        for name, item in content["attributes"].items():
            vars(made)[name] = self.read(item)
        if isinstance(made, dspy.Predict):
            vars(made).update(stage="", traces=[], train=[])
        return made

    def _change(self, root: Any, change: Change) -> Any:
        path = self._path(change["at"])
        if not path:
            return self.read(change["set"])
        holder, (kind, name) = _at(root, path[:-1]), path[-1]
        target = vars(holder) if kind == "attribute" and hasattr(holder, "__dict__") else holder
        if change.get("drop"):
            del target[name]
            return root
        written = change["set"]
        if isinstance(written, dict) and "$signature" in written:
            old = target.get(name) if isinstance(target, dict) else None
            value = read_signature(written["$signature"], old if _is_signature(old) else None, self)
        else:
            value = self.read(written)
        if isinstance(holder, BaseModel):
            holder.__pydantic_fields_set__.add(name)
        if kind == "attribute" and target is holder:
            object.__setattr__(holder, name, value)
        else:
            target[name] = value
        return root

    def _path(self, written: list[list[Any]]) -> Path:
        return tuple((kind, self.read(step)) for kind, step in written)


_ENSEMBLE = "dspy.teleprompt.ensemble.Ensemble.compile.<locals>.EnsembledProgram"


def _write_path(path: Path) -> list[list[Any]]:
    return [[kind, Writer().write(step)] for kind, step in path]


def _at(value: Any, path: Path) -> Any:
    for kind, step in path:
        try:
            value = attributes(value)[step] if kind == "attribute" else value[step]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"the program has no {place(path)}") from None
    return value


def _is_signature(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, dspy.Signature)


def _holds_more(values: Any) -> bool:
    """True for values that hold more than data: modules, functions, objects; data is kept as a whole."""
    for value in values:
        try:
            Writer().write(value)
        except UnkeptError:
            return True
    return False
