"""The embedded default: a tiny text backbone and a tiny MLLM, trained on scenes that the package renders."""
