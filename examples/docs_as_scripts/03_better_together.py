"""Example 3 of the docs as a plain DSPy script that runs on dspy 3.4.1: prompts and weights optimized in turns.

    python examples/docs_as_scripts/03_better_together.py --limit 24                 # the embedded LM, no key
    python examples/docs_as_scripts/03_better_together.py --lm openai/gpt-4o-mini    # as in the docs

Each comment that begins with "3.4.1:" corrects the docs' code. As a ladder with gates: examples/better_together.
"""

import dspy
from dspy.evaluate import Evaluate
from plain import ForgivingChatAdapter, Run, student_for

run = Run(__doc__, max_tokens=64)  # room for the reasoning
lm = run.lm
# 3.4.1: without an adapter of this kind one unreadable reply ends the collection of traces, and ten an evaluation.
dspy.configure(lm=lm, adapter=ForgivingChatAdapter())


class SolveWord(dspy.Signature):
    """Solve the math word problem step by step."""

    problem: str = dspy.InputField()
    answer: float = dspy.OutputField()


program = dspy.ChainOfThought(SolveWord)
# 3.4.1: BootstrapFinetune wants the LM on every predictor, and says so only after it has collected its traces.
program.set_lm(lm)

data = run.load("better_together/problems.json")
if run.local:
    data = [x for x in data if x["steps"] == 1]  # what a model of this size can learn
# The reasoning is not in the docs' data: with it, demos show how to reason, and not only what comes out.
examples = [
    dspy.Example(problem=x["problem"], reasoning=x["reasoning"], answer=x["answer"]).with_inputs("problem")
    for x in data
]
trainset, devset, testset = run.split(examples)


def metric(example, prediction, trace=None):
    try:
        return abs(float(prediction.answer) - float(example.answer)) < 0.01
    except (ValueError, TypeError):  # an unreadable reply has the answer None
        return False


evaluator = Evaluate(devset=devset, metric=metric, num_threads=4, display_progress=True)

# 1. Baseline.
# 3.4.1: an evaluator returns an EvaluationResult, which cannot be formatted as a number; its score is a percentage.
print(f"Baseline: {evaluator(program).score:.1f}%")

# 2. Prompt optimization only. MIPROv2 needs optuna (pip install 'dspy[optuna]').
prompt_opt = dspy.MIPROv2(metric=metric, **run.search)
prompt_optimized = prompt_opt.compile(program, **run.search_on(trainset))
print(f"Prompt-only: {evaluator(prompt_optimized).score:.1f}%")

# 3. Fine-tuning only.
# The embedded LM gets nothing right with the bare prompt, so there the optimized program teaches.
# 3.4.1: the rows carry the teacher's prompt, with which the student would not run: leave its demos out of them
# (exclude_demos), and give the student its instructions.
teacher = prompt_optimized if run.local else None
ft_opt = dspy.BootstrapFinetune(metric=metric, num_threads=24, exclude_demos=run.local, train_kwargs=run.tuning)
# 3.4.1: compile changes the student and returns the same object; without a copy, "baseline" is fine-tuned from here on.
finetuned = ft_opt.compile(student_for(program, teacher), trainset=trainset, teacher=teacher)
print(f"Fine-tune-only: {evaluator(finetuned).score:.1f}%")

# 4. BetterTogether (prompt + weight optimization).
bt_opt = dspy.BetterTogether(
    metric=metric,
    # 3.4.1: optimizers are instances, under the names that the strategy uses; prompt_optimizer=, weight_optimizer= and
    # classes are refused.
    p=dspy.MIPROv2(metric=metric, **run.search),
    w=dspy.BootstrapFinetune(metric=metric, num_threads=24, train_kwargs=run.tuning),
)
held_out = max(8, len(trainset) // 10)
best = bt_opt.compile(
    program.deepcopy(),
    trainset=trainset[:-held_out],
    # 3.4.1: the default is the first 10 % of the train set, unshuffled. It gives back whatever is best on this set, the
    # program it started from included; so judge the result on other examples.
    valset=trainset[-held_out:],
    strategy="p -> w -> p",
    optimizer_compile_args={"p": run.search_on(trainset[:-held_out])},
)
# 3.4.1: a step that fails is swallowed, and an earlier program comes back: look at the flag, and at who won.
if best.flag_compilation_error_occurred:
    print("A step of BetterTogether failed; the log above says why.")
won = next(candidate for candidate in best.candidate_programs if candidate["program"] is best)
print(f"Won: {won['strategy'] or 'the program it started from'}, on {best.predictors()[0].lm.model}")
print(f"BetterTogether: {evaluator(best).score:.1f}%")
