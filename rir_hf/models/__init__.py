"""The models that every step asks: text to vectors, prompts to text and log-probabilities."""
