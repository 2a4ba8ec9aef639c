"""What a model said ▸ the choice or number that it meant, or nothing: what cannot be read is its own outcome."""
