"""Retrieval runs and judgements: metrics, comparisons of two runs, and TREC files."""
