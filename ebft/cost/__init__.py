"""What a step costs on paper: tokens, memory and operations, here and on many GPUs."""
