"""What a model said ▸ the choice or the number that it meant, or nothing: what cannot be read is an outcome of its own."""
