"""Together: fine-tuning jobs over its own API, results on dedicated endpoints."""
