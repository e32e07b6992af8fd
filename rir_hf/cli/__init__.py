"""The command line: `rir-hf COMMAND`, one module per command, options taken from signatures and docstrings."""
