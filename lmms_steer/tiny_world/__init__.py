"""The tiny world: a tiny text backbone and a tiny MLLM that ship, and the scenes and questions they were trained on."""
