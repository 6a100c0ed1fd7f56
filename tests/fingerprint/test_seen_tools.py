"""What tools, retrievers, adapters and containers do and hold is seen.

Each case is a module of the user's in which ``it`` is described; {A} is what differs between two of them.
"""

from __future__ import annotations

import pytest

from pytest_dspy_ft.fingerprint import fingerprint
from tests.fingerprint.conftest import IMPORTS, Loader

CASES: list[tuple[str, str, str, str]] = [
    (
        "tool body",
        """
def f(x:int)->str:
 'd'
 return {A}
it=dspy.ReAct('q->a',tools=[f])
""",
        "'1'",
        "'2'",
    ),
    (
        "tool helper",
        """
def g(): return {A}
def f(x:int)->str:
 'd'
 return g()
it=dspy.ReAct('q->a',tools=[dspy.Tool(f)])
""",
        "'1'",
        "'2'",
    ),
    (
        "tool method of object",
        """
class T:
 def __init__(s,k): s.k=k
 def look(s,x:str)->str: return s.k
it=dspy.ReAct('q->a',tools=[T({A}).look])
""",
        "'1'",
        "'2'",
    ),
    (
        "react v2/codeact",
        """
def f(x:int)->str:
 'd'
 return {A}
class M(dspy.Module):
 def __init__(s):
  super().__init__(); s.a=dspy.ReAct('q->a',tools=[f])
it=M()
""",
        "'1'",
        "'2'",
    ),
    (
        "refine reward",
        """
def r(a,p): return {A}
it=dspy.Refine(module=dspy.Predict('q->a'),N=2,reward_fn=r,threshold=1.0)
""",
        "1",
        "2",
    ),
    (
        "bestofn reward",
        """
def r(a,p): return {A}
it=dspy.BestOfN(module=dspy.Predict('q->a'),N=2,reward_fn=r,threshold=1.0)
""",
        "1",
        "2",
    ),
    (
        "corpus global embeddings",
        """
import numpy as np
def em(t): return np.array([[len(x),1.0] for x in t],dtype=np.float32)
R=dspy.retrievers.Embeddings(corpus=[{A},'b'],embedder=dspy.Embedder(em),k=1)
class M(dspy.Module):
 def forward(s,q): return R(q)
it=M()
""",
        "'a'",
        "'c'",
    ),
    (
        "embedder body",
        """
import numpy as np
def em(t): return np.array([[len(x),{A}] for x in t],dtype=np.float32)
R=dspy.retrievers.Embeddings(corpus=['a','b'],embedder=dspy.Embedder(em),k=1)
class M(dspy.Module):
 def forward(s,q): return R(q)
it=M()
""",
        "1.0",
        "2.0",
    ),
    (
        "corpus global own class",
        """
class R:
 def __init__(s,c): s.c=c; s.lock=threading.Lock()
r=R([{A}])
def it(e,p,t=None): return r.c
""",
        "'a'",
        "'b'",
    ),
    (
        "own adapter",
        """
class A(dspy.ChatAdapter):
 def parse(s,*a): return {A}
it=A()
""",
        "1",
        "2",
    ),
    (
        "own adapter attr",
        """
class A(dspy.ChatAdapter):
 def __init__(s): super().__init__(); s.mark={A}
it=A()
""",
        "1",
        "2",
    ),
    (
        "own type",
        """
class T(dspy.Type):
 x: int
 def format(self): return {A}
class S(dspy.Signature):
  q: T=dspy.InputField()
  c: str=dspy.OutputField()
it=dspy.Predict(S)
""",
        "'1'",
        "'2'",
    ),
    (
        "dict subclass",
        """
class D(dict):
 def f(s): return {A}
d=D()
def it(e,p,t=None): return d.f()
""",
        "1",
        "2",
    ),
    (
        "deque",
        """
d=collections.deque([{A}])
def it(e,p,t=None): return d
""",
        "1",
        "2",
    ),
    (
        "decimal attr",
        """
import decimal
d=decimal.Decimal({A})
def it(e,p,t=None): return d
""",
        "'1'",
        "'2'",
    ),
    (
        "itemgetter",
        """
import operator
d=operator.itemgetter({A})
def it(e,p,t=None): return d
""",
        "'a'",
        "'b'",
    ),
    (
        "enum value attr",
        """
class E(enum.Enum):
 A={A}
class M:
 def __init__(s): s.e=E.A
 def __call__(s): return 1
it=M()
""",
        "1",
        "2",
    ),
    (
        "slots",
        """
class G:
 __slots__=('b',)
 def __init__(s,b): s.b=b
g=G({A})
def it(e,p,t=None): return g.b
""",
        "1",
        "2",
    ),
    (
        "dataclass extra attr",
        """
@dataclasses.dataclass
class G:
 x:int=1
 def __post_init__(s): s.y={A}
g=G()
def it(e,p,t=None): return g.y
""",
        "1",
        "2",
    ),
    (
        "numpy object array",
        """
import numpy as np
d=np.array([{A},None],dtype=object)
def it(e,p,t=None): return d
""",
        "'a'",
        "'b'",
    ),
    (
        "metaclass",
        """
class Me(type):
 def f(c): return {A}
class G(metaclass=Me): pass
def it(e,p,t=None): return G.f()
""",
        "1",
        "2",
    ),
    (
        "base class method",
        """
class B:
 def f(s): return {A}
class G(B): pass
g=G()
def it(e,p,t=None): return g.f()
""",
        "1",
        "2",
    ),
    (
        "builtin bound",
        """
d={'a':{A}}
it=d.get
""",
        "1",
        "2",
    ),
    (
        "generator in nested comp",
        """
def h(x): return {A}
def it(e,p,t=None): return any(h(x) for x in p)
""",
        "1",
        "2",
    ),
    (
        "class ref in function, nested",
        """
class C:
 def f(s): return {A}
def it(e,p,t=None):
 def g(): return C().f()
 return g()
""",
        "1",
        "2",
    ),
    (
        "default arg function",
        """
def h(x): return {A}
def it(e,p,t=None,f=h): return f(1)
""",
        "1",
        "2",
    ),
    (
        "example demo",
        """
it=dspy.Predict('a->b')
it.demos=[dspy.Example(a={A},b=1)]
""",
        "1",
        "2",
    ),
    ("config", "it=dspy.Predict('a->b',temperature={A})", "1", "2"),
    ("header no cred name", "it=dspy.LM('openai/x',extra_headers={'anthropic-beta':{A}})", "'a'", "'b'"),
    (
        "signature instr const",
        """
D={A}
class S(dspy.Signature):
 __doc__=D
 q: str=dspy.InputField()
 c: str=dspy.OutputField(desc=D)
it=dspy.Predict(S)
""",
        "'a'",
        "'b'",
    ),
    (
        "property on global",
        """
class G:
 @property
 def p(s): return {A}
g=G()
def it(e,p,t=None): return g.p
""",
        "1",
        "2",
    ),
]


@pytest.mark.parametrize(("source", "one", "two"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_it_matters(load: Loader, source: str, one: str, two: str) -> None:
    before, again, changed = (fingerprint(load(IMPORTS + source.replace("{A}", a)).it) for a in (one, one, two))
    assert before == again, "declared alike, but another key"
    assert before != changed, "the change is not seen"
