"""What passes: expressions over stages, evidence, intervals, verdicts."""
