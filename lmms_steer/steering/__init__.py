"""Change a running model: where its layers and image tokens are, which positions, which operation, and the hooks."""
