"""The message of a failing gate."""

from __future__ import annotations

from tests.gates.cases import result, share, sure, verdict


class TestMessage:
    def failing(self, **settings) -> str:
        before = share(40, 60)
        after = [0.0] * 7 + [1.0] * 33 + [1.0] * 2 + [0.0] * 18
        a = result("finetuned", after, outcomes={1: "unparsed", 2: "error"})
        b = result("prompt_optimized", before)
        examples = {
            f"ex{i}": {"inputs": {"text": f"ticket {i} \x1b[31m\n" + "x" * 5000}, "expected": {"category": "billing"}}
            for i in range(60)
        }
        return verdict("finetuned >= prompt_optimized", finetuned=a, prompt_optimized=b, examples=examples).message

    def test_tells_the_story(self):
        message = self.failing()
        for part in (
            "Gate `finetuned >= prompt_optimized` failed (on dev, n = 60): observed -8.3 pts",
            "left side 58.3%, right side 66.7%: margin -8.3 pts",
            "finetuned 58.3% (35 of 60 right, 1 unparsed, 1 error)",
            "prompt_optimized 66.7% (40 of 60 right)",
            "ERRORS: 1 of 60 examples of finetuned could not be measured",
            "first: ex2: KeyError: 'answer' in ex2",
            "2 fixed, 7 broke of 60 examples (prompt_optimized -> finetuned)",
            "broke ex0 (1 of 7): text='ticket 0",
            "expected category='billing'",
            "prompt_optimized category='billing'",
            "finetuned category='other'",
            "finetuned UNPARSED",
            "(5 of 7)",
            "Look next: the errors of finetuned",
            "within the noise at n = 60",
        ):
            assert part in message, message

    def test_is_short_and_printable(self):
        message = self.failing()
        assert len(message.splitlines()) < 40
        assert max(map(len, message.splitlines())) < 260
        assert all(line.isprintable() for line in message.splitlines())

    def test_pass_is_shorter(self):
        message = verdict("a >= b", a=share(9, 10), b=share(5, 10)).message
        assert "passed" in message
        assert "4 fixed, 0 broke" in message
        assert "Look next" not in message

    def test_interval(self):
        message = sure("a >= b", a=share(9, 10), b=share(8, 10)).message
        assert "is undecided" in message
        assert "95% interval of the margin: -" in message
        assert "on both sides of 0" in message
        assert "examples would tell" in message

    def test_no_number_of_examples_decides_a_tie(self):
        assert "allow for a small loss" in sure("a >= b", a=share(9, 10), b=share(9, 10)).message

    def test_direction_of_the_flips(self):
        for expression in ("a >= b", "b <= a", "a - b >= 0%", "a / b > 1", "a >= max(b, c)", "0 < a - b"):
            message = verdict(expression, a=share(9, 10), b=share(5, 10), c=share(4, 10)).message
            assert "4 fixed, 0 broke of 10 examples (b -> a)" in message, message

    def test_unrelated_stages_have_no_flips(self):
        assert "fixed" not in verdict("a + b >= c", a=share(5, 10), b=share(5, 10), c=share(4, 10)).message
        assert "fixed" not in verdict("a >= 50%", a=share(5, 10)).message

    def test_format_trouble(self):
        a = result("a", share(5, 10), outcomes=dict.fromkeys(range(5, 10), "unparsed"))
        assert "5 of 10 replies of a could not be read" in verdict("a >= 90%", a=a).message

    def test_wrong_answers_of_one_stage(self):
        examples = {"ex9": {"inputs": {"text": "hello"}, "expected": {"category": "billing"}}}
        message = verdict("a >= 95%", a=share(9, 10), examples=examples).message
        assert "wrong ex9 (1 of 1): text='hello'" in message
        assert "a category='other'" in message

    def test_many_stages_stay_readable(self):
        names = [f"stage_{i}" for i in range(12)]
        stages = {name: result(name, share(1, 9), outcomes={8: "error"}) for name in names}
        message = verdict(f"{names[0]} > max({', '.join(names[1:])})", **stages).message
        assert len(message.splitlines()) < 40
        assert "and 6 more stages" in message

    def test_experiment_and_settings_are_kept(self):
        record = sure(" a  >= 50% ", 0.9, a=share(9, 10))
        assert (record.experiment, record.expression, record.on, record.confidence) == (
            "tickets",
            "a  >= 50%",
            "dev",
            0.9,
        )
