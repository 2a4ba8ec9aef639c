"""What a replay is set up with: its options, and which positions of its prompts are steered."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lmms_steer.models.batches import StackRunner
from lmms_steer.steering.placeholders import Placeholders
from lmms_steer.steering.positions import token_mask
from lmms_steer.steering.sites import DEFAULT_SITE


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How a replay is set up.

    Attributes:
        targets: the token targets that will be used.
        special_ids: the tokenizer's special tokens, for the targets `text_paper` and `both_paper`.
        budget: bytes of a base pass to hold in memory; None holds everything.
        folder: where the rest goes.
        generates: whether text will be generated after replayed prompts, which needs all keys and values.
        runner: chooses how many cells run at once; shared by replays on one device. None makes a new one.
        site: the site of the decoder that is steered.
        scored: for prompts that are followed by answers to be scored: how many of each row's last positions are its
            answer's, int [batch]. They are not steered. None for prompts alone.
    """

    targets: Sequence[str] = ("image", "text", "both")
    special_ids: Collection[int] | None = None
    budget: int | None = None
    folder: Path | None = None
    generates: bool = False
    runner: StackRunner | None = None
    site: str = DEFAULT_SITE
    scored: Tensor | None = None


def kept_positions(scored: Tensor | None) -> int | None:
    """How many last positions predict a token of some scored answer; None without scored answers.

    The last prompt position predicts an answer's first token, and its last token predicts nothing.
    """
    return None if scored is None else int(scored.max()) + 1


def prompt_mask(
    ids: Tensor, attention: Tensor | None, media: Placeholders, tokens: str, special_ids: Collection[int] | None,
    scored: Tensor | None,
) -> Tensor:  # fmt: skip
    """The positions that are steered, bool [batch, positions]: those of a target, without scored answers.

    Args:
        ids, attention: of the batch.
        media, tokens, special_ids: as for `lmms_steer.steering.positions.token_mask`.
        scored: as in `ReplayOptions`.
    """
    if scored is None:
        return token_mask(ids, attention, media, tokens, special_ids=special_ids)
    places = torch.arange(ids.shape[1], device=ids.device)
    prompt = places < (ids.shape[1] - scored.to(ids.device))[:, None]
    return token_mask(ids, attention, media, tokens, prompt, special_ids) & prompt


def first_position(mask: Tensor) -> int:
    """The first position that is true in any row; 0 if there is none."""
    columns = mask.any(0)
    return int(columns.float().argmax()) if bool(columns.any()) else 0
