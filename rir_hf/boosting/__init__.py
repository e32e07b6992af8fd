"""The loop in which a retriever and a language model improve each other."""
