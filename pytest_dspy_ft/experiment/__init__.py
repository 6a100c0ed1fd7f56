"""What users declare: data, stages, experiments."""
