"""Sentences ▸ activations ▸ one direction a layer. One file a method, one registry."""
