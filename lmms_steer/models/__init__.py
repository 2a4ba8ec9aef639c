"""Checkpoints as lmms-eval evaluates them: loading, prompts, batched generation and log-likelihoods."""

IMAGE_SETTINGS = ("size", "do_image_splitting", "min_pixels", "max_pixels")
MODEL_ARGS = (
    *("pretrained", "revision", "dtype", "device", "device_map", "batch_size", "max_batch_size"),
    *("attn_implementation", "trust_remote_code", "load_in_4bit", "load_in_8bit", "prompt_prefix"),
    *("answer_bias", *IMAGE_SETTINGS),
)
"""What may stand in `--model_args` beside the keys of a spec."""
