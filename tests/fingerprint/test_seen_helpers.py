"""What a metric or a program calls is seen behind caches, decorators and objects.

Each case is a module of the user's in which ``it`` is described; {A} is what differs between two of them.
"""

from __future__ import annotations

import pytest

from pytest_dspy_ft.fingerprint import fingerprint
from tests.fingerprint.conftest import IMPORTS, Loader

CASES: list[tuple[str, str, str, str]] = [
    (
        "lru helper",
        """
@functools.lru_cache
def h(x): return {A}
def it(e,p,t=None): return h(1)
""",
        "1",
        "2",
    ),
    (
        "lru bounded",
        """
@functools.lru_cache(maxsize=3)
def h(x): return {A}
def it(e,p,t=None): return h(1)
""",
        "1",
        "2",
    ),
    (
        "functools.cache on helper of helper",
        """
@functools.cache
def h(x): return g(x)
def g(x): return {A}
def it(e,p,t=None): return h(1)
""",
        "1",
        "2",
    ),
    (
        "wraps: wrapped body",
        """
def d(f):
 @functools.wraps(f)
 def w(*a): return f(*a)
 return w
@d
def h(x): return {A}
def it(e,p,t=None): return h(1)
""",
        "1",
        "2",
    ),
    (
        "wraps: wrapper body",
        """
def d(f):
 @functools.wraps(f)
 def w(*a): return f(*a)+{A}
 return w
@d
def h(x): return 1
def it(e,p,t=None): return h(1)
""",
        "1",
        "2",
    ),
    (
        "wraps: arg",
        """
def d(n):
 def dd(f):
  @functools.wraps(f)
  def w(*a): return f(*a)+n
  return w
 return dd
@d({A})
def h(x): return 1
def it(e,p,t=None): return h(1)
""",
        "1",
        "2",
    ),
    (
        "decorator class",
        """
class D:
 def __init__(self,f): functools.update_wrapper(self,f); self.f=f
 def __call__(self,*a): return self.f(*a)+{A}
@D
def h(x): return 1
def it(e,p,t=None): return h(1)
""",
        "1",
        "2",
    ),
    (
        "decorator class body",
        """
class D:
 def __init__(self,f): functools.update_wrapper(self,f); self.f=f
 def __call__(self,*a): return self.f(*a)
@D
def h(x): return {A}
def it(e,p,t=None): return h(1)
""",
        "1",
        "2",
    ),
    (
        "singledispatch impl",
        """
@functools.singledispatch
def h(x): return 1
@h.register
def _(x: int): return {A}
def it(e,p,t=None): return h(1)
""",
        "1",
        "2",
    ),
    (
        "method lru",
        """
class M:
 @functools.lru_cache
 def h(self): return {A}
 def __call__(self,e,p,t=None): return self.h()
it=M()
""",
        "1",
        "2",
    ),
    (
        "method wraps wrapper",
        """
def d(f):
 @functools.wraps(f)
 def w(*a): return f(*a)+{A}
 return w
class M:
 @d
 def h(self): return 1
 def __call__(self,e,p,t=None): return self.h()
it=M()
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
