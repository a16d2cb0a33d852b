"""Rows and the branches that hang off them: where they are, who attends to whom, and attention by device."""
