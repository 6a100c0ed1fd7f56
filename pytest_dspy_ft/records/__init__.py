"""What is written down: frozen pydantic models, without pytest and without dspy."""
