"""LMs that answer and train elsewhere: clients, fine-tuning jobs over the OpenAI API, and what networks do to them.

Nothing here imports torch; ``openai`` is imported when a job is first prepared.
"""
