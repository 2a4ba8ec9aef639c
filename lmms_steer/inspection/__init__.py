"""Inspection: listings of vectors, the content of a vector or concept, and the effect of a spec on one prompt."""
