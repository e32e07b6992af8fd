"""What a language model adds to a corpus: queries, hypothetical answers, preference pairs."""
