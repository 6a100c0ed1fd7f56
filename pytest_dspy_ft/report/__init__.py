"""Reports: records in, text out. Nothing here prints, and nothing here computes a verdict."""
