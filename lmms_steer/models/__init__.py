"""Checkpoints as lmms-eval evaluates them: loading, prompts, batched generation and log-likelihoods."""

IMAGE_SETTINGS = ("size", "do_image_splitting", "min_pixels", "max_pixels")
"""Settings of image processors that `--model_args` may change."""
VIDEO_SETTINGS = ("fps", "num_frames")
"""How the frames of a video are chosen."""
CONTRAST_ARGS = (
    *("contrast", "contrast_alpha", "contrast_beta", "contrast_decay"),
    *("contrast_image", "contrast_text", "contrast_layers", "contrast_seed"),
)
"""The decoding contrast and its settings (`lmms_steer.models.contrasts`)."""
OUR_OWN_ARGS = ("prompt_prefix", "prompt_format", "answer_bias", "image", "divergence", *CONTRAST_ARGS)
"""Those of the `MODEL_ARGS` that lmms-eval's wrappers have no equal of."""
MODEL_ARGS = (
    *("pretrained", "revision", "dtype", "device", "device_map", "batch_size", "max_batch_size"),
    *("attn_implementation", "trust_remote_code", "load_in_4bit", "load_in_8bit"),
    *(*OUR_OWN_ARGS, *IMAGE_SETTINGS, *VIDEO_SETTINGS),
)
"""The `--model_args` of our models besides the keys of a spec. They stand here so that they can be read without torch;
`lmms_steer.models.checkpoint.HfCheckpoint` describes them."""
BLANK = "blank"
"""The value of `image` that replaces every image by a grey one."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
"""The dtypes that weights can be loaded in."""
