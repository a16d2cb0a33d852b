"""What a run is told: every knob as a typed dataclass, the rules that tie knobs together, and what makes a run the same
run."""
