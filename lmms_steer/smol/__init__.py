"""A pretrained language model from the package index, a multimodal model on it, and questions for that model."""
