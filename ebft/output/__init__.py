"""What leaves the program: files, the terminal, experiment trackers, and a record of the environment."""
