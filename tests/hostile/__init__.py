"""Inputs that mean harm, or that nobody expected: each has a row in `cases.py`."""
