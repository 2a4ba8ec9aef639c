"""Concepts: pairs of an anchor and a sentence, one YAML file per concept, and their loader."""

from lmms_steer.concepts.loader import Concept, Pair, load, names, shipped

__all__ = ["Concept", "Pair", "load", "names", "shipped"]
