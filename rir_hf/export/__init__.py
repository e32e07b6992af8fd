"""The formats of trainers, derived from the rows of this package."""
