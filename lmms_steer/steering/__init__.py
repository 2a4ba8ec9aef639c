"""Change a running model: steering specs, operations, token positions, and the hooks that apply them."""
