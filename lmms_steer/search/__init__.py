"""Search for layer, alpha and token target on held-out questions, with controls and an honest p-value."""
