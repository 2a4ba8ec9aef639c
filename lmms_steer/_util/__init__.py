"""Small helpers that every room may use: files, logging, hashes, formatting, YAML."""
