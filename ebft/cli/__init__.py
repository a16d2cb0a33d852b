"""The command line: Hydra in, typed and checked configuration out, call."""
