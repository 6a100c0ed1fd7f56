"""Traces, the training rows they give, and the trainings of a stage."""
