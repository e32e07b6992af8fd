"""Datasets of this package onto the Hugging Face Hub and back."""
