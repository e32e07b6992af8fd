"""The command line, `rir-hf COMMAND`: a module for each, its options from the docstring."""
