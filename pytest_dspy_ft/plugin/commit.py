"""The commit that a project stands at: asked of git once a session, in a moment, and never an error.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

_PATIENCE = 2.0
"""Seconds for ``git status``: of a very large tree it may take longer, and then nobody waits for it."""

_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def checked_out(folder: Path) -> tuple[str, bool | None]:
    """The commit that a folder's project stands at.

    Args:
        folder: Anywhere in the project.

    Returns:
        (its id, whether tracked files differ from it). Without a repository, or before its first commit, the id is
        empty; where git is missing, refuses or takes long, the id is read from the repository's files, and the rest is
        None.
    """
    # What a hook of git passes on is about its own folder, from which it may be relative.
    environment = {k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    command = ["git", "--no-optional-locks", "-C", str(folder), "status", "--porcelain=v2", "--branch"]
    try:
        done = subprocess.run(
            [*command, "--untracked-files=no", "--ignore-submodules=dirty"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return _read_head(folder), None
    head, dirty = "", False
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        if line.startswith("# branch.oid "):
            head = line.removeprefix("# branch.oid ")
        dirty = dirty or not line.startswith("#")
    return (head, dirty) if _ID.fullmatch(head) else ("", None)


def _read_head(folder: Path) -> str:
    """The commit as the repository's files have it; empty where they do not say."""
    try:
        git = next((p / ".git" for p in (folder, *folder.parents) if (p / ".git").exists()), None)
        if git is None:
            return ""
        if git.is_file():  # a worktree or a submodule
            git = git.parent / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        common = git / (git / "commondir").read_text(encoding="utf-8").strip() if (git / "commondir").exists() else git
        if head.startswith("ref:"):
            head = _read_ref(git, common, head.removeprefix("ref:").strip())
    except (OSError, ValueError):
        return ""
    return head if _ID.fullmatch(head) else ""


def _read_ref(git: Path, common: Path, name: str) -> str:
    for place in (git / name, common / name):
        if place.is_file():
            return place.read_text(encoding="utf-8").strip()
    packed = common / "packed-refs"
    lines = packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
