"""Gates: conditions on stages, from their text to a verdict and its explanation."""
