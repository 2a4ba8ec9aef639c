"""Recipes, as a package so that they are installed with the code."""
