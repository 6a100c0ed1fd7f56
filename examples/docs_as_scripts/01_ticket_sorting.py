"""Example 1 of the docs as a plain DSPy script that runs on dspy 3.4.1: sort support tickets.

    python examples/docs_as_scripts/01_ticket_sorting.py --limit 24                  # the embedded LM, no key
    python examples/docs_as_scripts/01_ticket_sorting.py --lm openai/gpt-4o-mini     # as in the docs

Each comment that begins with "3.4.1:" corrects the docs' code. As a ladder with gates: examples/ticket_sorting.
"""

import dspy
from dspy.evaluate import Evaluate
from plain import ForgivingChatAdapter, Run, student_for

run = Run(__doc__)
lm = run.lm
# 3.4.1: without an adapter of this kind one unreadable reply ends the collection of traces, and ten an evaluation.
dspy.configure(lm=lm, adapter=ForgivingChatAdapter())


class ClassifyTicket(dspy.Signature):
    """Classify the support ticket into a category."""

    text: str = dspy.InputField()
    category: str = dspy.OutputField(desc="one of: billing, technical, account, feature_request, other")


# The tickets hold no reasoning, so demos of a ChainOfThought would teach a small model to write none: it predicts.
program = dspy.Predict(ClassifyTicket) if run.local else dspy.ChainOfThought(ClassifyTicket)
# 3.4.1: BootstrapFinetune wants the LM on every predictor, and says so only after it has collected its traces.
program.set_lm(lm)

data = run.load("ticket_sorting/tickets.json")
examples = [dspy.Example(text=x["text"], category=x["category"]).with_inputs("text") for x in data]
trainset, devset, testset = run.split(examples)


def metric(example, prediction, trace=None):
    return prediction.category.strip().lower() == example.category.strip().lower()


evaluator = Evaluate(devset=devset, metric=metric, num_threads=4, display_progress=True)

# Step 1: measure the baseline.
# 3.4.1: an evaluator returns an EvaluationResult, which cannot be formatted as a number; its score is a percentage.
print(f"Baseline: {evaluator(program).score:.1f}%")

# Step 2: optimize prompts. MIPROv2 needs optuna (pip install 'dspy[optuna]') and says so only after its first LM calls.
optimizer = dspy.MIPROv2(metric=metric, **run.search)
prompt_optimized = optimizer.compile(program, **run.search_on(trainset))
print(f"Prompt-optimized: {evaluator(prompt_optimized).score:.1f}%")

# Step 3: fine-tune.
# The embedded LM gets nothing right with the bare prompt, so there the optimized program teaches.
# 3.4.1: the rows carry the teacher's prompt, with which the student would not run: leave its demos out of them
# (exclude_demos), and give the student its instructions.
teacher = prompt_optimized if run.local else None
ft_optimizer = dspy.BootstrapFinetune(metric=metric, num_threads=24, exclude_demos=run.local, train_kwargs=run.tuning)
# 3.4.1: compile changes the student and returns the same object; without a copy, "baseline" is fine-tuned from here on.
finetuned = ft_optimizer.compile(student_for(program, teacher), trainset=trainset, teacher=teacher)
print(f"Fine-tuned: {evaluator(finetuned).score:.1f}%")

# Results comparison.
test_eval = Evaluate(devset=testset, metric=metric, num_threads=4, display_progress=True)
print("Test set results:")
print(f"  Baseline:         {test_eval(program).score:.1f}%")
print(f"  Prompt-optimized: {test_eval(prompt_optimized).score:.1f}%")
print(f"  Fine-tuned:       {test_eval(finetuned).score:.1f}%")
