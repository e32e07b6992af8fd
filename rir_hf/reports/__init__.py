"""What a person wants to see of a dataset: counts, plots, a page of its rows."""
