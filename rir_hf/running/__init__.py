"""Long maps: a step over a dataset that resumes, records and scales."""
