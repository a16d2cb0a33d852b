"""Several processes as one run: what they tell one another, weights in shards, and signs of life."""
