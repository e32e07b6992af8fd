"""Thin calls of the trainers of sentence-transformers and TRL on the rows of this package."""
