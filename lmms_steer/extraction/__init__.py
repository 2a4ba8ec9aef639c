"""Extraction: sentences to activations to one direction per layer. One file per method, in `methods`."""
