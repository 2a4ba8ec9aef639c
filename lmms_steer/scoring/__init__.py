"""Read the choice or the number from a model's answer; an answer that cannot be read is an outcome of its own."""
