"""A program over a split: every example measured, none ever left out."""
