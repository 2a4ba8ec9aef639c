"""Read what lmms-eval logged, pair it by document, and say what the difference is worth."""
