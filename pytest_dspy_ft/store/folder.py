"""A store's directory: folders made when first needed, damage moved out of the way, failures in one line."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_dspy_ft.errors import StoreError, StoreWarning
from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.locks import describe_holder, locked
from pytest_dspy_ft.store.entries import DamagedEntryError
from pytest_dspy_ft.tracebacks import warn


class StoreFolder:
    """A directory that a store has for itself.

    Args:
        root: The directory; created when something is first written.
        read_only: Change nothing in it, not even what is damaged: for plans.
    """

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        self.root = Path(root).absolute()
        self.read_only = read_only
        self._told: set[Path] = set()

    def prepared(self, below: str | Path) -> Path:
        """A folder of the store, made when first needed, with the marks that keep it out of version control."""
        folder = self.root / below
        with self.writing():
            for part in (*reversed(folder.parents), folder):
                if part != self.root and part.is_relative_to(self.root) and os.path.lexists(part) and not part.is_dir():
                    self.set_aside([part], f"folder {part.name}", DamagedEntryError(f"{part.name} is no folder"))
            folder.mkdir(parents=True, exist_ok=True)
            ignore = self.root / ".gitignore"
            if not os.path.lexists(ignore):
                text = "# Made by pytest-dspy-ft. Delete this folder to build and measure everything anew.\n*\n"
                write_atomically(ignore, text, flushed=False)
        return folder

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What goes wrong inside is said in one line, with what helps."""
        if self.read_only:
            raise StoreError(f"the store {self.root} was opened for reading only")
        try:
            yield
        except OSError as problem:
            raise StoreError(
                f"cannot write to the store {self.root}: {problem.strerror or problem}; "
                "choose another with --dspy-store=DIR"
            ) from problem

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """What may not be read is no damage: it is said in one line, with what helps."""
        try:
            yield
        except PermissionError as problem:
            raise StoreError(
                f"cannot read {problem.filename or self.root} in the store: {problem.strerror}; make it readable, or "
                "choose another store with --dspy-store=DIR"
            ) from problem

    def set_aside(self, parts: list[Path], what: str, problem: Exception, *, copied: bool = False) -> None:
        """Move what is damaged out of the way, and say so; where nothing can be moved, say only that, and once.

        Args:
            parts: Files and folders that belong together.
            what: What they are, in words.
            problem: What is wrong with them.
            copied: Keep a copy of one file there instead: what is whole in it stays.
        """
        if parts[0] in self._told:
            return
        said = f"the store's entry for the {what} is damaged ({problem}); "
        if self.read_only:
            self._told.add(parts[0])
            done = "a session would move it out of the way and make it again"
        else:
            try:
                place = self._move_aside(parts, copied)
                done = f"it was {'copied' if copied else 'moved'} to {place} and will be made again"
            except FileNotFoundError:
                return  # another process was faster, and says it
            except OSError as refused:
                self._told.add(parts[0])
                done = f"it counts as missing, and cannot be moved to set_aside: {refused.strerror or refused}"
        warn(said + done, StoreWarning)

    def _move_aside(self, parts: list[Path], copied: bool) -> Path:
        aside = self.root / "set_aside"
        stamp = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}"
        if os.path.lexists(aside) and not aside.is_dir():
            aside.rename(aside.with_name(f"set_aside-{stamp}"))
        target = aside / f"{stamp}-{parts[0].name}"
        aside.mkdir(parents=True, exist_ok=True)
        if copied:
            shutil.copyfile(parts[0], target)
            return target
        if len(parts) > 1:
            target.mkdir()
        for part in parts:
            part.rename(target if len(parts) == 1 else target / part.name)
        return target

    @contextlib.contextmanager
    def lock(self, name: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the lock of this name against other processes; the system releases it if we are killed.

        Args:
            name: What is locked, e.g. a stage's key.
            waiting: Called every half second while another process holds it, with who that is where it is known.

        Raises:
            StoreError: The store cannot be written.
        """
        path = self.prepared("locks") / f"{name}.lock"
        with contextlib.ExitStack() as held:
            with self.writing():
                if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
                    self.set_aside([path], f"lock {name}", DamagedEntryError(f"{path.name} is no file"))
                told = None if waiting is None else lambda: waiting(describe_holder(path))
                held.enter_context(locked(path, waiting=told))
            yield
