"""What a person wants to see of a dataset: counts and plots."""
