"""Sparse autoencoders: which one reads a layer ▸ features that fire on anchors ▸ who means it ▸ a direction."""
