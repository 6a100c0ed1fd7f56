"""Example 2 of the docs as a plain DSPy script that runs on dspy 3.4.1: distil an expensive RAG program.

    python examples/docs_as_scripts/02_rag_distillation.py --limit 40                                 # the embedded LM
    python examples/docs_as_scripts/02_rag_distillation.py --lm openai/gpt-4o-mini --teacher-lm openai/gpt-4o

Each comment that begins with "3.4.1:" corrects the docs' code. As a ladder with gates: examples/rag_distillation.
"""

import bm25s
import dspy
from dspy.evaluate import Evaluate
from plain import ForgivingChatAdapter, Run, student_for

run = Run(__doc__)
teacher_lm, student_lm = run.teacher_lm, run.lm
# 3.4.1: without an adapter of this kind one unreadable reply ends the collection of traces, and ten an evaluation.
dspy.configure(lm=teacher_lm, adapter=ForgivingChatAdapter())

# 3.4.1: dspy.Retrieve needs dspy.configure(rm=...), and a program that holds it cannot be saved. Search with a library.
passages = run.load("rag_distillation/passages.json")
index = bm25s.BM25()
index.index(bm25s.tokenize(passages, stopwords="en", show_progress=False), show_progress=False)


def retrieve(question, k=3):
    words = bm25s.tokenize([question], stopwords="en", show_progress=False)
    found, _ = index.retrieve(words, k=k, show_progress=False)
    return [passages[i] for i in found[0]]


class AnswerFromDocs(dspy.Signature):
    """Answer the question based on the provided context."""

    context: str = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class RAG(dspy.Module):
    def __init__(self):
        super().__init__()
        # The answers come without reasoning, so demos of a ChainOfThought would teach a small model to write none.
        self.generate = dspy.Predict(AnswerFromDocs) if run.local else dspy.ChainOfThought(AnswerFromDocs)

    def forward(self, question):
        context = "\n\n".join(retrieve(question))  # 3.4.1: the field is a str; the docs gave it a list
        return self.generate(context=context, question=question)


teacher = RAG()
# 3.4.1: a program runs on whatever is configured when it is called. In the docs' code that is the student's LM by the
# time the teacher teaches: no call would reach the expensive one. Give every program its LM.
teacher.set_lm(teacher_lm)

data = run.load("rag_distillation/questions.json")
# 3.4.1: a demo without an input says that it was "Not supplied for this particular example.": with a question and an
# answer alone, demos show how to answer from nothing. With a passage in the example, its demo is complete.
examples = [
    dspy.Example(context=retrieve(x["question"], k=1)[0], question=x["question"], answer=x["answer"]) for x in data
]
examples = [example.with_inputs("question") for example in examples]
trainset, devset, testset = run.split(examples)


def metric(example, prediction, trace=None):
    gold_tokens = set(example.answer.lower().split())
    pred_tokens = set(prediction.answer.lower().split())
    if not gold_tokens or not pred_tokens:
        return float(gold_tokens == pred_tokens)
    precision = len(gold_tokens & pred_tokens) / len(pred_tokens)
    recall = len(gold_tokens & pred_tokens) / len(gold_tokens)
    if precision + recall == 0:
        return 0.0
    return 2 * (precision * recall) / (precision + recall)


def good_enough(example, prediction, trace=None):
    # 3.4.1: BootstrapFinetune trains on every trace whose score is not 0, an F1 of 0.05 among them. So it gets a metric
    # that says yes or no. (pytest-dspy-ft: Stage(..., accept=0.5).)
    return metric(example, prediction, trace) >= 0.5


evaluator = Evaluate(devset=devset, metric=metric, num_threads=4, display_progress=True)

# Optimize the teacher. MIPROv2 needs optuna (pip install 'dspy[optuna]').
optimizer = dspy.MIPROv2(metric=metric, **run.search)
teacher_optimized = optimizer.compile(teacher, **run.search_on(trainset))
# 3.4.1: an evaluator returns an EvaluationResult, which cannot be formatted as a number; its score is a percentage.
print(f"Teacher ({teacher_lm.model}, optimized): {evaluator(teacher_optimized).score:.1f}%")

# Distil to the student.
student = RAG()
# 3.4.1: BootstrapFinetune wants the LM on every predictor, and says so only after it has collected its traces.
student.set_lm(student_lm)
print(f"Student ({student_lm.model}, no tuning): {evaluator(student).score:.1f}%")
# 3.4.1: the rows carry the teacher's prompt, with which the student would not run: leave its demos out of them
# (exclude_demos), and give the student its instructions.
ft_optimizer = dspy.BootstrapFinetune(metric=good_enough, num_threads=24, exclude_demos=True, train_kwargs=run.tuning)
# 3.4.1: compile changes the student and returns the same object; give it a copy.
student_finetuned = ft_optimizer.compile(
    student_for(student, teacher_optimized), trainset=trainset, teacher=teacher_optimized
)
print(f"Student ({student_lm.model}, fine-tuned): {evaluator(student_finetuned).score:.1f}%")
