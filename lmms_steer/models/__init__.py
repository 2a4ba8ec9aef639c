"""Wrappers that lmms-eval evaluates: the unsteered batched one, steering on top of it, and one file a model family."""
