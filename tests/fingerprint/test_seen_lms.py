"""What LMs and judges are is seen: settings, answers, code, attributes.

Each case is a module of the user's in which ``it`` is described; {A} is what differs between two of them.
"""

from __future__ import annotations

import pytest

from pytest_dspy_ft.fingerprint import fingerprint
from tests.fingerprint.conftest import IMPORTS, Loader

CASES: list[tuple[str, str, str, str]] = [
    (
        "lm thinking",
        "it=dspy.LM('openai/x',**{A})",
        "{'thinking':{'type':'enabled','budget_tokens':10}}",
        "{'thinking':{'type':'enabled','budget_tokens':20}}",
    ),
    ("lm min_tokens", "it=dspy.LM('openai/x',**{A})", "{'min_tokens':1}", "{'min_tokens':2}"),
    (
        "lm extra_headers",
        "it=dspy.LM('openai/x',**{A})",
        "{'extra_headers':{'x-tier':'a'}}",
        "{'extra_headers':{'x-tier':'b'}}",
    ),
    ("lm extra_body", "it=dspy.LM('openai/x',**{A})", "{'extra_body':{'top_k':1}}", "{'extra_body':{'top_k':2}}"),
    ("lm stop_token", "it=dspy.LM('openai/x',**{A})", "{'stop_token':'a'}", "{'stop_token':'b'}"),
    (
        "lm extra_body too",
        "it=dspy.LM('openai/x',**{A})",
        "{'extra_body':{'stop_token_ids':[1]}}",
        "{'extra_body':{'stop_token_ids':[2]}}",
    ),
    ("lm prompt_cache_key", "it=dspy.LM('openai/x',**{A})", "{'prompt_cache_key':'a'}", "{'prompt_cache_key':'b'}"),
    (
        "dummy list",
        """
from dspy.utils import DummyLM
it=DummyLM([{'a':{A}}])
""",
        "'1'",
        "'2'",
    ),
    (
        "dummy dict",
        """
from dspy.utils import DummyLM
it=DummyLM({'a':{'a':{A}}})
""",
        "'1'",
        "'2'",
    ),
    (
        "dummy follow",
        """
from dspy.utils import DummyLM
it=DummyLM([{'a':'a'}],follow_examples={A})
""",
        "True",
        "False",
    ),
    (
        "own lm source",
        """
class G(dspy.BaseLM):
 def __init__(s): super().__init__(model='g')
 def forward(s,**k): return {A}
it=G()
""",
        "1",
        "2",
    ),
    (
        "own lm helper",
        """
def h(): return {A}
class G(dspy.BaseLM):
 def __init__(s): super().__init__(model='g')
 def forward(s,**k): return h()
it=G()
""",
        "1",
        "2",
    ),
    (
        "own lm attr",
        """
class G(dspy.LM):
 def __init__(s): super().__init__('g/x'); s.deployment={A}
it=G()
""",
        "'a'",
        "'b'",
    ),
    (
        "own lm private attr",
        """
class G(dspy.LM):
 def __init__(s): super().__init__('g/x'); s._rule={A}
it=G()
""",
        "'a'",
        "'b'",
    ),
    (
        "lm attr after",
        """
it=dspy.LM('openai/x')
it.use_developer_role={A}
""",
        "True",
        "False",
    ),
    (
        "lm attr after2",
        """
it=dspy.LM('openai/x')
it.deployment={A}
""",
        "'a'",
        "'b'",
    ),
    (
        "engine rule",
        """
class E:
 def __init__(s,r): s.r=r
 def complete(s,q): return s.r
it=dspy.LM('t/x',engine=E(lambda: {A}))
""",
        "1",
        "2",
    ),
    (
        "metric judge attr lm",
        """
class J:
 def __init__(s): s.lm=dspy.LM({A})
 def __call__(s,e,p,t=None): return 1
it=J()
""",
        "'openai/a'",
        "'openai/b'",
    ),
    (
        "metric closure predictor lm",
        """
def mk():
 j=dspy.Predict('a->b'); j.lm=dspy.LM({A})
 def m(e,p,t=None): return j(a=1)
 return m
it=mk()
""",
        "'openai/a'",
        "'openai/b'",
    ),
    (
        "metric global lm list",
        """
L=[dspy.LM({A})]
def it(e,p,t=None): return L[0]('x')
""",
        "'openai/a'",
        "'openai/b'",
    ),
    (
        "metric global module attr",
        """
class J(dspy.Module):
 def __init__(s):
  super().__init__(); s.ask=dspy.ChainOfThought('a->b'); s.ask.set_lm(dspy.LM({A}))
j=J()
def it(e,p,t=None): return j
""",
        "'openai/a'",
        "'openai/b'",
    ),
    (
        "metric partial judge",
        """
j=dspy.Predict('a->b'); j.lm=dspy.LM({A})
def m(e,p,t=None,judge=None): return judge
it=functools.partial(m,judge=j)
""",
        "'openai/a'",
        "'openai/b'",
    ),
    (
        "optimizer metric module",
        """
class J(dspy.Module):
 def __init__(s):
  super().__init__(); s.ask=dspy.Predict('a->b'); s.ask.lm=dspy.LM({A})
it=dspy.BootstrapFewShot(metric=J())
""",
        "'openai/a'",
        "'openai/b'",
    ),
]


@pytest.mark.parametrize(("source", "one", "two"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_it_matters(load: Loader, source: str, one: str, two: str) -> None:
    before, again, changed = (fingerprint(load(IMPORTS + source.replace("{A}", a)).it) for a in (one, one, two))
    assert before == again, "declared alike, but another key"
    assert before != changed, "the change is not seen"
