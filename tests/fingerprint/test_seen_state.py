"""The state of the user's objects is seen, whatever their attributes are called.

Each case is a module of the user's in which ``it`` is described; {A} is what differs between two of them.
"""

from __future__ import annotations

import pytest

from pytest_dspy_ft.fingerprint import fingerprint
from tests.fingerprint.conftest import IMPORTS, Loader

CASES: list[tuple[str, str, str, str]] = [
    (
        "global object method",
        """
class G:
 def norm(self,x): return {A}
g=G()
def it(e,p,t=None): return g.norm(1)
""",
        "1",
        "2",
    ),
    (
        "global object state",
        """
class G:
 def __init__(self,b): self.b=b
 def norm(self,x): return self.b
g=G({A})
def it(e,p,t=None): return g.norm(1)
""",
        "1",
        "2",
    ),
    (
        "namespace",
        """
S=SimpleNamespace(bar={A})
def it(e,p,t=None): return S.bar
""",
        "1",
        "2",
    ),
    (
        "namespace attr",
        """
S=SimpleNamespace(bar={A})
class M:
 def __init__(s): s.s=S
 def __call__(s): return 1
it=M()
""",
        "1",
        "2",
    ),
    (
        "attr sort_key",
        """
class M:
 def __init__(s): s.sort_key={A}
 def __call__(s,e,p,t=None): return s.sort_key
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "attr stop_token",
        """
class M:
 def __init__(s): s.stop_token={A}
 def __call__(s,e,p,t=None): return s.stop_token
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "attr max_tokens",
        """
class M:
 def __init__(s): s.max_tokens={A}
 def __call__(s,e,p,t=None): return s.max_tokens
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "attr stage",
        """
class M:
 def __init__(s): s.stage={A}
 def __call__(s,e,p,t=None): return s.stage
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "attr train",
        """
class M:
 def __init__(s): s.train={A}
 def __call__(s,e,p,t=None): return s.train
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "attr history",
        """
class M:
 def __init__(s): s.history={A}
 def __call__(s,e,p,t=None): return s.history
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "attr lm",
        """
class M:
 def __init__(s): s.lm={A}
 def __call__(s,e,p,t=None): return s.lm
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "attr traces",
        """
class M:
 def __init__(s): s.traces={A}
 def __call__(s,e,p,t=None): return s.traces
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "attr candidate_programs",
        """
class M:
 def __init__(s): s.candidate_programs={A}
 def __call__(s,e,p,t=None): return s.candidate_programs
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "attr secret_word",
        """
class M:
 def __init__(s): s.secret_word={A}
 def __call__(s,e,p,t=None): return s.secret_word
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "attr keys",
        """
class M:
 def __init__(s): s.keys={A}
 def __call__(s,e,p,t=None): return s.keys
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "attr tokens",
        """
class M:
 def __init__(s): s.tokens={A}
 def __call__(s,e,p,t=None): return s.tokens
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "attr token",
        """
class M:
 def __init__(s): s.token={A}
 def __call__(s,e,p,t=None): return s.token
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "attr key",
        """
class M:
 def __init__(s): s.key={A}
 def __call__(s,e,p,t=None): return s.key
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "module attr sort_key",
        """
class M(dspy.Module):
 def __init__(s):
  super().__init__(); s.sort_key={A}
 def forward(s,q): return s.sort_key
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "module attr stage",
        """
class M(dspy.Module):
 def __init__(s):
  super().__init__(); s.stage={A}
 def forward(s,q): return s.stage
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "module attr train",
        """
class M(dspy.Module):
 def __init__(s):
  super().__init__(); s.train={A}
 def forward(s,q): return s.train
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "module attr history",
        """
class M(dspy.Module):
 def __init__(s):
  super().__init__(); s.history={A}
 def forward(s,q): return s.history
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "module attr lm",
        """
class M(dspy.Module):
 def __init__(s):
  super().__init__(); s.lm={A}
 def forward(s,q): return s.lm
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "module attr traces",
        """
class M(dspy.Module):
 def __init__(s):
  super().__init__(); s.traces={A}
 def forward(s,q): return s.traces
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "module attr candidate_programs",
        """
class M(dspy.Module):
 def __init__(s):
  super().__init__(); s.candidate_programs={A}
 def forward(s,q): return s.candidate_programs
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "module attr token",
        """
class M(dspy.Module):
 def __init__(s):
  super().__init__(); s.token={A}
 def forward(s,q): return s.token
it=M()
""",
        "'prod'",
        "'test'",
    ),
    (
        "module list stage",
        """
class M(dspy.Module):
 def __init__(s):
  super().__init__(); s.history=[{A}]
 def forward(s,q): return 1
it=M()
""",
        "'prod'",
        "'test'",
    ),
]


@pytest.mark.parametrize(("source", "one", "two"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_it_matters(load: Loader, source: str, one: str, two: str) -> None:
    before, again, changed = (fingerprint(load(IMPORTS + source.replace("{A}", a)).it) for a in (one, one, two))
    assert before == again, "declared alike, but another key"
    assert before != changed, "the change is not seen"
