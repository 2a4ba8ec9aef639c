"""Families with a prompt format or a checkpoint of their own: a format is data, nothing else differs."""

from lmms_steer.models.steered import SteeredVlm
from lmms_steer.prompts import Format, chat_template, paligemma_prefix


class SteeredPaliGemma(SteeredVlm):
    """`--model steered_paligemma`: PaliGemma 1 and 2, which lmms-eval has no wrapper for."""

    default_pretrained = "google/paligemma2-3b-mix-448"

    def prompt_format(self) -> Format:
        return paligemma_prefix


class SteeredIdefics3(SteeredVlm):
    """`--model steered_idefics3`: Idefics3 and SmolVLM, which lmms-eval has no wrapper for.

    The marks between an image's pieces (`<row_1_col_2>`, …) count as text. `size` (longest edge) and
    `do_image_splitting` say into how many pieces an image is cut.
    """

    default_pretrained = "HuggingFaceM4/Idefics3-8B-Llama3"

    def prompt_format(self) -> Format:
        return chat_template
