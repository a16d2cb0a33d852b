"""The run folder: its files, checkpoints, tensors, and profiles."""
