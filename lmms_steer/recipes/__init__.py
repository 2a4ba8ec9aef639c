"""Experiments as files: a recipe is validated, planned as commands, run by workers, and resumed when interrupted."""
