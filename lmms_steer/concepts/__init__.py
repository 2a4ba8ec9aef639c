"""Sentence-anchor pairs as data, one YAML file a concept, and their loader."""

from lmms_steer.concepts.loader import Concept, Pair, load, names, shipped

__all__ = ["Concept", "Pair", "load", "names", "shipped"]
