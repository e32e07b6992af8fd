"""Rows from files, folders and the Hub, what changes their number, and what repeats in them."""
