"""What `--model` may name. Imports nothing: lmms-eval reads it whenever it starts."""

MODELS = {
    "steered_paligemma": "lmms_steer.models.families.SteeredPaliGemma",
    "steered_idefics3": "lmms_steer.models.families.SteeredIdefics3",
    "steered_hf": "lmms_steer.models.steered.SteeredVlm",
}
"""`--model` name ▸ class. All are *simple*: lmms-eval's chat models cannot answer log-likelihood requests."""
