"""Sampling: short branches at many anchors of a row, and completions to the end."""
