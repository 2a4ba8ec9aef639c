"""Helpers that every room may use: files, YAML, logging, hashes, and how numbers are written."""
