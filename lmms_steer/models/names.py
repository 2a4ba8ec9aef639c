"""What `--model` and `--model_args` may name. Imports nothing: lmms-eval reads it whenever it starts."""

MODELS = {
    "steered_paligemma": "lmms_steer.models.families.SteeredPaliGemma",
    "steered_idefics3": "lmms_steer.models.families.SteeredIdefics3",
    "steered_hf": "lmms_steer.models.steered.SteeredVlm",
}
"""`--model` name ▸ class. All are *simple*: lmms-eval's chat models cannot answer log-likelihood requests."""

IMAGE_SETTINGS = ("size", "do_image_splitting", "min_pixels", "max_pixels")
MODEL_ARGS = (
    *("pretrained", "revision", "dtype", "device", "device_map", "batch_size", "max_batch_size"),
    *("attn_implementation", "trust_remote_code", "load_in_4bit", "load_in_8bit", "prompt_prefix"),
    *("answer_bias", *IMAGE_SETTINGS),
)
"""What may stand in `--model_args` beside the keys of a spec."""
