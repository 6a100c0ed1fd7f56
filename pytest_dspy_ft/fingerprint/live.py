"""Live things: locks, clients, loggers, generators and the like, which have a state of the moment and no content.

They are known by their type. Nothing is imported to know one: classes are told by their names and bases.
"""

from __future__ import annotations

import functools
import re
import types
from typing import Any

# By module and name. A class counts with all that derive from it.
_TYPES = frozenset(
    f"{module}.{name}"
    for module, names in {
        "_thread": "lock RLock _local LockType",
        "threading": "Thread Event Condition Semaphore Barrier local _RLock",
        "_threading_local": "local",
        "logging": "Logger Handler LoggerAdapter Formatter Filterer",
        "asyncio.locks": "Lock Event Condition Semaphore Barrier",
        "asyncio.queues": "Queue",
        "asyncio.events": "AbstractEventLoop Handle",
        "asyncio.futures": "Future",
        "_asyncio": "Future Task",
        "asyncio.runners": "Runner",
        "queue": "Queue SimpleQueue",
        "_queue": "SimpleQueue",
        "concurrent.futures._base": "Executor Future",
        "concurrent.futures.thread": "ThreadPoolExecutor",
        "concurrent.futures.process": "ProcessPoolExecutor",
        "multiprocessing.pool": "Pool",
        "multiprocessing.queues": "Queue SimpleQueue",
        "multiprocessing.synchronize": "SemLock Event Condition",
        "multiprocessing.process": "BaseProcess",
        "multiprocessing.managers": "BaseManager BaseProxy",
        "multiprocessing.connection": "_ConnectionBase",
        "subprocess": "Popen",
        "_io": "_IOBase",
        "io": "IOBase",
        "tempfile": "_TemporaryFileWrapper TemporaryDirectory",
        "socket": "socket",
        "_socket": "socket",
        "ssl": "SSLContext SSLSocket",
        "_ssl": "_SSLContext",
        "http.client": "HTTPConnection",
        "http.cookiejar": "CookieJar",
        "urllib.request": "OpenerDirector",
        "sqlite3": "Connection Cursor",
        "_contextvars": "ContextVar Token Context",
        "contextlib": "ExitStack AsyncExitStack _GeneratorContextManagerBase",
        "weakref": "ref ReferenceType WeakKeyDictionary WeakValueDictionary WeakSet WeakMethod finalize",
        "_weakrefset": "WeakSet",
        "random": "Random SystemRandom",
        "_random": "Random",
        "numpy.random._generator": "Generator",
        "numpy.random.bit_generator": "BitGenerator SeedSequence",
        "numpy.random.mtrand": "RandomState",
        "torch._C": "Generator",
        "sched": "scheduler",
        "select": "epoll poll",
        "selectors": "BaseSelector",
        "mmap": "mmap",
    }.items()
    for name in names.split()
) | {"builtins.weakref", "builtins.ReferenceType", "builtins.weakproxy", "builtins.weakcallableproxy"}

# Packages that talk to something: what of theirs is called a client, a session, a connection and so on is live.
# fmt: off
_TALKING = frozenset({
    "aiobotocore", "aiohttp", "anthropic", "asyncpg", "azure", "boto3", "botocore", "chromadb", "cohere",
    "confluent_kafka", "dask", "diskcache", "docker", "duckdb", "elasticsearch", "google", "googleapiclient", "grpc",
    "groq", "httpcore", "httpx", "httpx2", "huggingface_hub", "kafka", "lancedb", "langfuse", "mistralai", "mlflow",
    "motor", "mysql", "neo4j", "ollama", "openai", "opensearchpy", "paramiko", "pika", "pinecone", "playwright",
    "prometheus_client", "psycopg", "psycopg2", "psycopg_pool", "pymilvus", "pymongo", "pymysql", "qdrant_client",
    "ray", "redis", "replicate", "requests", "selenium", "sqlalchemy", "tavily", "together", "tqdm", "urllib3",
    "wandb", "weaviate", "websocket", "websockets", "zmq",
})
# fmt: on

_TALKS = re.compile(
    r"client|session|connection|engine|pool|transport|driver|manager|cursor|database|channel|bucket|table|resource"
    r"|openai|anthropic|groq|cohere|mistral|together|weaviate|pinecone|redis|index|cache|api|adapter|tqdm|metric|gauge"
    r"|counter|histogram|cookiejar|proxy|stub",
    re.IGNORECASE,
)

_ITERATORS = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, types.FrameType, types.TracebackType)


_EMPTY = frozenset(
    {"_thread", "_threading_local", "threading", "logging", "asyncio", "_asyncio", "queue", "_queue", "concurrent"}
    | {"weakref", "_weakrefset", "_contextvars", "sched", "select", "selectors"}
)


def holds_nothing(value: Any) -> bool:
    """True for a live thing that nothing could be read from: a lock, a logger, a thread."""
    cls = type(value)
    return cls.__module__.partition(".")[0] in _EMPTY or cls.__qualname__ in ("weakref", "ReferenceType")


def is_live(value: Any) -> bool:
    """True for an object that is known by its type alone: its state is the moment's, not a setting."""
    cls: Any = type(value)
    return isinstance(value, _ITERATORS) or _is_live_type(cls)


@functools.lru_cache(maxsize=4096)
def _is_live_type(cls: type) -> bool:
    if any(f"{base.__module__}.{base.__qualname__}" in _TYPES for base in cls.__mro__):
        return True
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in _TALKING and _TALKS.search(base.__qualname__):
            return True
    # An iterator of Python's own (of a list, map, zip): reading on changes it.
    builtin = cls.__module__ in ("builtins", "itertools", "collections", "re", "_csv", "_json")
    return builtin and "__next__" in vars(cls)
