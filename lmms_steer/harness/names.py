"""The names of our models, and of lmms-eval's wrappers that can be steered; imports nothing heavy."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from lmms_steer.errors import UserError

MODELS = {
    "steered_paligemma": "lmms_steer.harness.steered.SteeredPaliGemma",
    "steered_idefics3": "lmms_steer.harness.steered.SteeredIdefics3",
    "steered_hf": "lmms_steer.harness.steered.SteeredVlm",
}
"""`--model` name ▸ class. All are *simple* models, because lmms-eval's chat models cannot score log-likelihoods."""
LM_EVAL_MODELS = ("steered_hf", "steered_hf_multimodal")
"""Our models' names in lm-eval, where only `lmms-steer lm-eval` knows them."""
ENGINES = ("vllm", "sglang", "api", "openai", "gemini", "claude", "gpt", "litellm", "reka", "fastvideo", "trtllm")
"""Parts of the names of lmms-eval's wrappers whose model runs in an engine or behind an API."""


@cache
def steered_names_on_disk(*kinds: str) -> frozenset[str]:
    """`steered_NAME` for each of lmms-eval's wrappers, from file names: importing the registry takes seconds.

    Args:
        *kinds: `simple` or `chat`; both by default.
    """
    spec = find_spec("lmms_eval")
    root = Path(spec.submodule_search_locations[0]) / "models" if spec and spec.submodule_search_locations else None
    files = [path for kind in kinds or ("simple", "chat") for path in (root / kind).glob("*.py")] if root else []
    return frozenset(f"steered_{path.stem}" for path in files if not path.stem.startswith("_"))


def wrapper_of(model: str) -> str | None:
    """The wrapper of lmms-eval that a `--model` steers: `qwen3_vl` of `steered_qwen3_vl` or `steered:qwen3_vl`.

    None for any other model, our own three included.
    """
    name = model.replace(":", "_", 1)
    if name in MODELS or name not in steered_names_on_disk():
        return None
    return name.removeprefix("steered_")


def runs_in_engine(model: str) -> bool:
    """Whether a wrapper of lmms-eval (such as `vllm`) runs its model in an engine or behind an API."""
    return any(part in model.split("_") for part in ENGINES)


def engine_error(model: str) -> UserError:
    """The error for such a wrapper."""
    return UserError(f"{model} runs its model in an engine or behind an API, out of reach: it cannot be steered")
