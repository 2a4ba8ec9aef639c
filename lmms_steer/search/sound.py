"""Whether a replayed cell is what the model with hooks gives, told with power in bfloat16 too."""

import torch
from torch import Tensor

from lmms_steer.search.hooked import Hooked
from lmms_steer.search.replay import Replay, tolerance

ABOVE = 4
"""So many times a replay's own rounding must a cell's effect be for its share to tell anything."""
SHARE = 1 / 2
"""Of a cell's effect, that a replay may be off by. One that does not steer is off by all of it."""


def same_logits(replay: Replay, hooked: Hooked, layer: int, delta: Tensor, tokens: str) -> bool:
    """Whether both give a cell the same logits, but for rounding, and move them alike."""
    ours, theirs = (source.steer(layer, delta, tokens).float() for source in (replay, hooked))
    near = float((ours - theirs).abs().max()) <= tolerance(hooked.base)
    return near and _moved_alike(replay, hooked, ours, theirs, tokens)


def same_effect(replay: Replay, hooked: Hooked, layer: int, delta: Tensor, tokens: str) -> bool:
    """Whether both move a cell's logits alike, each from its own unsteered ones."""
    ours, theirs = (source.steer(layer, delta, tokens).float() for source in (replay, hooked))
    return _moved_alike(replay, hooked, ours, theirs, tokens)


def _moved_alike(replay: Replay, hooked: Hooked, ours: Tensor, theirs: Tensor, tokens: str) -> bool:
    # what rounding explains is in bfloat16 more than the whole effect of a weak cell: a bound on logits alone passes
    # a replay that does not steer at all
    before, base = hooked.base.float(), replay.base.float()
    expected = theirs - before
    effect = float(expected.norm())
    # `generate` may number padded positions otherwise, which rounds otherwise
    rounding = max(replay.rounding[replay.starts[tokens]], float((base - before).norm()))
    least = 2 * torch.finfo(hooked.base.dtype).eps * float(before.norm())
    if effect <= max(ABOVE * rounding, least):
        return True
    return float((ours - base - expected).norm()) <= SHARE * effect
