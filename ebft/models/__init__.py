"""Language models behind the geometry: loading, adapters, the policy's log-probs and the feature network's hidden
states."""
