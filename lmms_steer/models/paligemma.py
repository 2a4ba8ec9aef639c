"""PaliGemma 1 and 2, which lmms-eval has no wrapper for."""

from lmms_steer.models.steered import SteeredVlm
from lmms_steer.prompts import paligemma_prefix


class SteeredPaliGemma(SteeredVlm):
    """`--model steered_paligemma`."""

    format_prompts = staticmethod(paligemma_prefix)
    default_pretrained = "google/paligemma2-3b-mix-448"
