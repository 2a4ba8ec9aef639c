"""Steering vectors: the file format, stores, controls, other tools' files, and the Hub."""
