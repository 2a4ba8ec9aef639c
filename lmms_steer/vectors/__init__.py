"""Vectors in and out: other tools' files, and the Hub."""
