"""Types that an LM is to answer in are seen, and attributes of classes wherever they were set.

Each case is a module of the user's in which ``it`` is described; {A} is what differs between two of them.
"""

from __future__ import annotations

import pytest

from pytest_dspy_ft.fingerprint import fingerprint
from tests.fingerprint.conftest import IMPORTS, Loader

CASES: list[tuple[str, str, str, str]] = [
    (
        "nested model",
        """
class B(BaseModel):
  x: {A}
class C(BaseModel):
  b: list[B]
class S(dspy.Signature):
  q: str=dspy.InputField()
  c: C=dspy.OutputField()
it=dspy.Predict(S)
""",
        "int",
        "str",
    ),
    (
        "nested model desc",
        """
class B(BaseModel):
  x: int=Field(description={A})
class C(BaseModel):
  b: Optional[B]=None
class S(dspy.Signature):
  q: str=dspy.InputField()
  c: C=dspy.OutputField()
it=dspy.Predict(S)
""",
        "'a'",
        "'b'",
    ),
    (
        "desc constant in model",
        """
D={A}
class C(BaseModel):
  b: int=Field(description=D)
class S(dspy.Signature):
  q: str=dspy.InputField()
  c: C=dspy.OutputField()
it=dspy.Predict(S)
""",
        "'a'",
        "'b'",
    ),
    (
        "literal alias",
        """
L=Literal[{A}]
class C(BaseModel):
  b: L
class S(dspy.Signature):
  q: str=dspy.InputField()
  c: C=dspy.OutputField()
it=dspy.Predict(S)
""",
        "'a'",
        "'b'",
    ),
    (
        "literal alias direct",
        """
L=Literal[{A}]
class S(dspy.Signature):
  q: str=dspy.InputField()
  c: L=dspy.OutputField()
it=dspy.Predict(S)
""",
        "'a'",
        "'b'",
    ),
    (
        "future annotations nested",
        """
class B(BaseModel):
  x: {A}
class C(BaseModel):
  b: 'list[B]'
class S(dspy.Signature):
  q: str=dspy.InputField()
  c: C=dspy.OutputField()
it=dspy.Predict(S)
""",
        "int",
        "str",
    ),
    (
        "enum nested",
        """
class E(enum.Enum):
  A={A}
class C(BaseModel):
  b: E
class S(dspy.Signature):
  q: str=dspy.InputField()
  c: C=dspy.OutputField()
it=dspy.Predict(S)
""",
        "'a'",
        "'b'",
    ),
    (
        "enum functional",
        """
E=enum.Enum('E',{A})
class S(dspy.Signature):
  q: str=dspy.InputField()
  c: E=dspy.OutputField()
it=dspy.Predict(S)
""",
        "['a']",
        "['b']",
    ),
    (
        "enum const member",
        """
V={A}
class E(enum.Enum):
  A=V
class S(dspy.Signature):
  q: str=dspy.InputField()
  c: E=dspy.OutputField()
it=dspy.Predict(S)
""",
        "'a'",
        "'b'",
    ),
    (
        "create_model",
        """
import pydantic
C=pydantic.create_model('C',x=({A},...))
class S(dspy.Signature):
  q: str=dspy.InputField()
  c: C=dspy.OutputField()
it=dspy.Predict(S)
""",
        "int",
        "str",
    ),
    (
        "dataclass nested out",
        """
@dataclasses.dataclass
class B:
  x: {A}
@dataclasses.dataclass
class C:
  b: B
class S(dspy.Signature):
  q: str=dspy.InputField()
  c: C=dspy.OutputField()
it=dspy.Predict(S)
""",
        "int",
        "str",
    ),
    (
        "local nested model",
        """
def mk():
 class B(BaseModel):
  x: {A}
 class C(BaseModel):
  b: B
 return dspy.Predict(dspy.Signature({'q':(str,dspy.InputField()),'c':(C,dspy.OutputField())},'i'))
it=mk()
""",
        "int",
        "str",
    ),
    (
        "model validator helper",
        """
def v(x): return {A}
class C(BaseModel):
  b: int
  def m(self): return v(1)
class S(dspy.Signature):
  q: str=dspy.InputField()
  c: C=dspy.OutputField()
it=dspy.Predict(S)
""",
        "1",
        "2",
    ),
    (
        "class attr set later",
        """
class M:
 threshold=.5
 def __call__(s,e,p,t=None): return s.threshold
M.threshold={A}
it=M()
""",
        ".9",
        ".8",
    ),
    (
        "class attr new",
        """
class M:
 def __call__(s,e,p,t=None): return s.threshold
M.threshold={A}
it=M()
""",
        ".9",
        ".8",
    ),
    (
        "class attr global class",
        """
class C:
 bar=1
C.bar={A}
def it(e,p,t=None): return C.bar
""",
        "3",
        "4",
    ),
    (
        "class attr list append",
        """
class C:
 bar=[]
C.bar.append({A})
def it(e,p,t=None): return C.bar
""",
        "3",
        "4",
    ),
    (
        "class attr from const",
        """
V={A}
class C:
 bar=V
 def __call__(s): return s.bar
it=C()
""",
        "3",
        "4",
    ),
    (
        "monkeypatched method",
        """
class C:
 def f(s): return 1
 def __call__(s): return s.f()
def g(s): return {A}
C.f=g
it=C()
""",
        "3",
        "4",
    ),
    (
        "func attribute",
        """
def it(e,p,t=None): return it.bar
it.bar={A}
""",
        "3",
        "4",
    ),
]


@pytest.mark.parametrize(("source", "one", "two"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_it_matters(load: Loader, source: str, one: str, two: str) -> None:
    before, again, changed = (fingerprint(load(IMPORTS + source.replace("{A}", a)).it) for a in (one, one, two))
    assert before == again, "declared alike, but another key"
    assert before != changed, "the change is not seen"
