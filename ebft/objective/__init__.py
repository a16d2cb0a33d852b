"""The mathematics of the objective as pure functions: features, rewards, advantages, losses."""
