"""The configuration tree: every default of the program, one folder a group."""
