"""Rows from files, folders and the Hub, and what changes their number."""
