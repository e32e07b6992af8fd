"""Teachers that score the passages of a row, the step that asks them, and uses of their scores."""
