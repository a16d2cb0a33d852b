"""Questions about short Python functions: their grammar, and the inputs of their hidden tests."""
