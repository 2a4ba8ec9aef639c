"""`lmms-steer curve`: how the probability of a word as the next token moves with alpha."""
