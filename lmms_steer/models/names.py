"""What `--model` and `--model_args` may name. Imports no other package: lmms-eval reads it whenever it starts."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from lmms_steer.errors import UserError

MODELS = {
    "steered_paligemma": "lmms_steer.models.families.SteeredPaliGemma",
    "steered_idefics3": "lmms_steer.models.families.SteeredIdefics3",
    "steered_hf": "lmms_steer.models.steered.SteeredVlm",
}
"""`--model` name ▸ class. All are *simple*: lmms-eval's chat models cannot answer log-likelihood requests."""


@cache
def wrapped() -> frozenset[str]:
    """`steered_NAME` of each of lmms-eval's own wrappers, from its files: its registry takes seconds to import."""
    spec = find_spec("lmms_eval")
    root = Path(spec.submodule_search_locations[0]) / "models" if spec and spec.submodule_search_locations else None
    files = [path for kind in ("simple", "chat") for path in (root / kind).glob("*.py")] if root else []
    return frozenset(f"steered_{path.stem}" for path in files if not path.stem.startswith("_"))


ENGINES = ("vllm", "sglang", "api", "openai", "gemini", "claude", "gpt", "litellm", "reka", "fastvideo", "trtllm")
"""Parts of the names of wrappers whose model runs elsewhere."""


def in_engine(model: str) -> bool:
    """Whether one of lmms-eval's wrappers (`vllm`) runs its model elsewhere."""
    return any(part in model.split("_") for part in ENGINES)


def out_of_reach(model: str) -> UserError:
    """The error for one of those."""
    return UserError(f"{model} runs its model in an engine or behind an API, out of reach: it cannot be steered")


IMAGE_SETTINGS = ("size", "do_image_splitting", "min_pixels", "max_pixels")
MODEL_ARGS = (
    *("pretrained", "revision", "dtype", "device", "device_map", "batch_size", "max_batch_size"),
    *("attn_implementation", "trust_remote_code", "load_in_4bit", "load_in_8bit", "prompt_prefix"),
    *("answer_bias", *IMAGE_SETTINGS),
)
"""What may stand in `--model_args` beside the keys of a spec."""
