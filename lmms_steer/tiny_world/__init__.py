"""The tiny world: a text backbone and a multimodal model that ship, their training scenes and their questions."""
