"""One loop for every method: set-up, plan, steps, evaluation."""
