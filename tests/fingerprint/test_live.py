"""Live things, and what differs from session to session, change no key; what could not be seen is listed."""

from __future__ import annotations

import json
import time

import pytest

from pytest_dspy_ft.fingerprint import describe
from tests.fingerprint.conftest import IMPORTS, Loader

ATTRIBUTES = [
    "logging.getLogger('a')",
    "threading.Lock()",
    "threading.RLock()",
    "threading.Event()",
    "threading.Thread(target=print)",
    "__import__('queue').Queue()",
    "(i for i in range(3))",
    "random.Random()",
    "__import__('numpy').random.default_rng()",
    "open('/dev/null')",
    "__import__('concurrent.futures').futures.ThreadPoolExecutor()",
    "__import__('asyncio').new_event_loop()",
    "__import__('weakref').ref(logging)",
    "__import__('contextvars').ContextVar('a')",
    "threading.local()",
    "__import__('sqlite3').connect(':memory:')",
    "__import__('openai').OpenAI(api_key='sk-'+os.urandom(9).hex())",
    "__import__('openai').AsyncOpenAI(api_key='sk-'+os.urandom(9).hex())",
    "__import__('httpx').Client()",
    "__import__('httpx').AsyncClient()",
    "__import__('tempfile').NamedTemporaryFile()",
    "iter([1,2])",
    "map(str,[1])",
    "lambda: 1",
    "functools.partial(print, 1)",
    "functools.lru_cache(lambda: 1)",
    "object()",
    "{str(i) for i in range(9)}",
    "__import__('itertools').count()",
    "__import__('threading').Timer(1,print)",
    "__import__('time').time",
    "__import__('weakref').WeakKeyDictionary()",
    "memoryview(b'a')",
    "dspy.Parallel()",
    "dspy.Embedder('openai/x')",
    "os.environ.get",
    "__import__('tiktoken').Encoding",
    "[threading.Lock(), {'a': logging.getLogger('b')}]",
    "SimpleNamespace(log=logging.getLogger('x'),lock=threading.Lock())",
    "type('Loc',(),{})()",
    "collections.defaultdict(lambda: 3)",
    "__import__('unittest.mock').mock.MagicMock()",
]

ATTRIBUTE = """
class M(dspy.Module):
    def __init__(s):
        super().__init__()
        s.x = {A}
    def forward(s, q): return s.x
it = M()
"""

GLOBALS = [
    "logging.getLogger('a')",
    "threading.Lock()",
    "random.Random()",
    "__import__('openai').OpenAI(api_key='sk-'+os.urandom(9).hex())",
    "open('/dev/null')",
    "(i for i in range(3))",
    "__import__('unittest.mock').mock.MagicMock()",
    "object()",
]

GLOBAL = "x = {A}\ndef it(e, p, t=None): return x\n"

OTHERS: list[tuple[str, str]] = [
    (
        "class attr live",
        """
class G:
 log=logging.getLogger('x'); lock=threading.Lock(); rng=random.Random()
 def f(s): return 1
g=G()
def it(e,p,t=None): return g.f()
""",
    ),
    (
        "closure live",
        """
def mk():
 l=threading.Lock(); lg=logging.getLogger('a')
 def m(e,p,t=None):
  with l: lg.info('a'); return 1
 return m
it=mk()
""",
    ),
    (
        "api key attr",
        """
class M:
 def __init__(s): s.api_key='sk-'+os.urandom(9).hex()
 def __call__(s): return 1
it=M()
""",
    ),
    (
        "token random",
        """
class M:
 def __init__(s): s.hf_token='hf_'+os.urandom(12).hex()
 def __call__(s): return 1
it=M()
""",
    ),
    (
        "own lm with client",
        """
class G(dspy.BaseLM):
 def __init__(s):
  super().__init__(model='g')
  s.client=__import__('openai').OpenAI(api_key='sk-'+os.urandom(9).hex())
  s.lock=threading.Lock()
 def forward(s,**k): return 1
it=G()
""",
    ),
    (
        "lm headers auth",
        "it=dspy.LM('openai/x',extra_headers={'Authorization':'Bearer '+os.urandom(9).hex()},api_key='sk-'+os.urandom(9).hex())",  # noqa: E501
    ),
    ("lm body key", "it=dspy.LM('openai/x',extra_body={'auth':{'api_key':os.urandom(9).hex()}})"),
    (
        "raising attr",
        """
class R:
 def __getattr__(s,n): raise RuntimeError(n)
x=R()
def it(e,p,t=None): return x
""",
    ),
    (
        "raising getattribute",
        """
class R:
 def __getattribute__(s,n): raise RuntimeError(n)
x=R()
def it(e,p,t=None): return x
""",
    ),
    (
        "lazy property",
        """
class R:
 @property
 def p(s): raise SystemError
x=R()
def it(e,p,t=None): return x
""",
    ),
    (
        "cycle",
        """
class R: pass
x=R(); x.x=[x,{'a':x}]
def it(e,p,t=None): return x
""",
    ),
    (
        "embeddings",
        """
import numpy as np
def em(t): return np.random.rand(len(t),3).astype(np.float32)
R=dspy.retrievers.Embeddings(corpus=['a','b'],embedder=dspy.Embedder(em),k=1)
class M(dspy.Module):
 def __init__(s):
  super().__init__(); s.r=R
 def forward(s,q): return R(q)
it=M()
""",
    ),
    (
        "set of enums and functions",
        """
def a(): 1
def b(): 2
S={a,b,str,int}
def it(e,p,t=None): return S
""",
    ),
    (
        "knn",
        """
import numpy as np
def em(t): return np.random.rand(len(t),3).astype(np.float32)
it=dspy.KNNFewShot(k=1,trainset=[dspy.Example(a='1',b='2').with_inputs('a')],vectorizer=dspy.Embedder(em))
""",
    ),
    (
        "linked list",
        """
class N:
 def __init__(s,n): s.n=n
x=None
for i in range(3000): x=N(x)
def it(e,p,t=None): return x
""",
    ),
    (
        "dense graph",
        """
class N: pass
x=[N() for i in range(40)]
for n in x: n.all=x
def it(e,p,t=None): return x
""",
    ),
    (
        "tree with parents",
        """
class N:
 def __init__(s,d,p=None): s.p=p; s.k=[N(d-1,s) for i in range(3)] if d else []
x=N(6)
def it(e,p,t=None): return x
""",
    ),
]

CASES = [
    *(pytest.param(ATTRIBUTE.replace("{A}", made), id=made) for made in ATTRIBUTES),
    *(pytest.param(GLOBAL.replace("{A}", made), id=f"global {made}") for made in GLOBALS),
    *(pytest.param(source, id=name) for name, source in OTHERS),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", CASES)
def test_declared_alike_is_the_same(load: Loader, source: str) -> None:
    one, two = (load(IMPORTS + source).it for _ in range(2))
    assert describe(one) == describe(two)
    assert " at 0x" not in json.dumps(describe(one).content)


def test_helpers_that_share_helpers_end_in_time(load: Loader) -> None:
    count = 24
    lines = ["def f0(): return 1", "def g0(): return 2"]
    for i in range(1, count):
        lines += [f"def {name}{i}(): return f{i - 1}() and g{i - 1}()" for name in "fg"]
    web = [f"def w{i}(): return " + " and ".join(f"w{j}()" for j in range(12)) for i in range(12)]
    source = "\n".join([*lines, *web, f"def it(e, p, t=None): return f{count - 1}() and w0()"])
    started = time.perf_counter()
    before = describe(load(source).it)
    assert time.perf_counter() - started < 30  # unbounded, it takes hours
    assert before != describe(load(source.replace("def f0(): return 1", "def f0(): return 3")).it)
    assert before != describe(load(source.replace("def w7(): return w0()", "def w7(): return w1()")).it)


@pytest.mark.parametrize(
    ("made", "unseen"),
    [
        ("__import__('httpx').Client()", ".x: httpx.Client is known by its type"),
        ("open('/dev/null')", ".x: _io.TextIOWrapper is known by its type"),
        ("random.Random(3)", ".x: random.Random is known by its type"),
        ("'hf_0123456789abcdef'", ".x: builtins.str looks like a credential and is left out"),
        ("logging.getLogger('a')", None),
        ("threading.Lock()", None),
        ("SimpleNamespace(a=1)", None),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_could_not_be_seen_is_listed(load: Loader, made: str, unseen: str | None) -> None:
    found = describe(load(IMPORTS + ATTRIBUTE.replace("{A}", made)).it).unseen
    assert found == (() if unseen is None else (unseen.lstrip("."),))


@pytest.mark.filterwarnings("ignore")
def test_no_credential_is_in_a_description(load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", "planted-secret")
    source = """
API_KEY = os.environ["PLANTED"]
class M(dspy.Module):
    def __init__(s):
        super().__init__()
        s.api_key, s.settings = os.environ["PLANTED"], {"password": os.environ["PLANTED"]}
    def forward(s, q): return API_KEY
def mk(access_token=os.environ["PLANTED"]):
    def m(e, p, t=None): return access_token
    return m
P = dict(api_key=os.environ["PLANTED"], extra_headers={"X-Api-Key": os.environ["PLANTED"], "x": os.environ["PLANTED"]})
lm = dspy.LM("openai/x", **P)
it = [M(), mk(), lm]
"""
    seen = describe(load(IMPORTS + source).it)
    assert "planted" not in json.dumps(seen.content)
    assert sum("credential" in note for note in seen.unseen) == 4
