"""Energy-based fine-tuning of language models: SFT, RLVR and EBFT on one loop with one evaluator."""
