"""What a store remembers of an experiment's splits: the examples that were in dev and test, the programs tested.

Examples are known by their inputs: a mended label makes another example of the same inputs, and whoever has learnt the
one knows the other. One file for each experiment, ``splits/EXPERIMENT/splits.json``, to which sessions only ever add,
under a lock; each example and each program stands in it once. Deleting it lets the store forget.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_dspy_ft.store.entries import OtherVersionError, candidates, place_for, read_entry, write_entry
from pytest_dspy_ft.store.folder import StoreFolder
from pytest_dspy_ft.store.folder_names import folder_for, folder_name


@dataclass(frozen=True)
class RememberedSplits:
    """What was in the splits of an experiment, in all sessions together."""

    dev: frozenset[str] = frozenset()
    """Ids of the inputs of examples."""
    test: frozenset[str] = frozenset()
    programs: frozenset[str] = frozenset()
    """Digests of the builds, and names of other programs, that were measured on the whole test split."""

    def __or__(self, other: RememberedSplits) -> RememberedSplits:
        return RememberedSplits(self.dev | other.dev, self.test | other.test, self.programs | other.programs)


class SplitMemory:
    """The memory of one experiment.

    Args:
        store: The store.
        experiment: The experiment's name.

    Attributes:
        path: Its file.
    """

    def __init__(self, store: StoreFolder, experiment: str) -> None:
        self._store, self._experiment = store, experiment
        self._owner = {"experiment": experiment, "kept": "splits"}
        self.path: Path = folder_for(store.root / "splits", experiment) / "splits.json"

    def read(self) -> RememberedSplits:
        """What is remembered; nothing where there is no memory yet. A damaged one is set aside, which is said.

        Raises:
            StoreError: It may not be read.
        """
        with self._store.reading():
            for path in candidates(self.path):
                try:
                    content = read_entry(path, self._owner)
                    return RememberedSplits(*(frozenset(content[name]) for name in ("dev", "test", "programs")))
                except (OtherVersionError, FileNotFoundError):
                    continue
                except PermissionError:
                    raise
                except (OSError, ValueError, TypeError, KeyError) as problem:
                    what = f"memory of the splits of experiment {self._experiment!r}"
                    self._store.set_aside([path], what, problem)
        return RememberedSplits()

    def remember(self, fresh: RememberedSplits) -> RememberedSplits:
        """Add to the memory; the file is written only where it does not hold all of that.

        Returns:
            All that is remembered.

        Raises:
            StoreError: The store cannot be written.
        """
        known = self.read()
        if known | fresh == known:
            return known
        with self._store.lock(f"splits-{folder_name(self._experiment)}"):
            known = self.read() | fresh
            self._store.prepared(self.path.parent.relative_to(self._store.root))
            with self._store.writing():
                content = {"dev": sorted(known.dev), "test": sorted(known.test), "programs": sorted(known.programs)}
                write_entry(place_for(self.path), self._owner, content)
        return known
