"""Vectors of a corpus, the FAISS index attached to it, and the search in both."""
