"""Whether a replay is what the model with hooks gives, in any dtype: the check that a search makes while it runs.

What is compared are logits, not texts or scores: where two answers are nearly tied, rounding alone decides between
them. A replay agrees if its logits lie no further from the hooked ones than rounding moves those
(`lmms_steer.replay.rounding`). The effect of a weak cell may be smaller than that, so that a replay that does not steer
would pass. Each cell is therefore compared a second time with its vector as long as the activations that it is added
to, and the positions where it is added are compared too.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lmms_steer.replay.changes import Change, Delta, alone
from lmms_steer.replay.engine import Replay
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.replay.rounding import MAX_NOISE_RATIO, noise_ratio, random_rounding

Source = Replay | HookedBatch

LogitsOf = Callable[[Source, int, Delta, str, Tensor | None], tuple[Tensor, Tensor | None]]
"""(source, layer, delta, tokens, text) ▸ the logits of a cell [..., vocabulary], and the text that they precede.

Where the model writes text, it writes its own if `text` is None, and the given one otherwise.
"""


def next_logits(
    source: Source,
    layer: int,
    delta: Delta,
    tokens: str,
    text: Tensor | None,  # noqa: ARG001  as `LogitsOf`
) -> tuple[Tensor, None]:
    """The logits of the next token, or of the answers to be scored: `LogitsOf` where no text is written."""
    return source.steer(layer, delta, tokens), None


def agrees(replay: Replay, hooked: HookedBatch, layer: int, delta: Delta, tokens: str, logits_of: LogitsOf) -> bool:
    """Whether a replayed cell is that of the model with hooks, up to rounding.

    Args:
        replay, hooked: the same batch.
        layer, delta, tokens: the cell, as for `Replay.steer`.
        logits_of: the logits to compare. A replay is asked for those of the text that the model with hooks writes.
    """
    longer = _as_long_as_activations(replay, layer, delta, tokens)
    for added in (longer, delta):
        with hooked.watching() as seen:
            theirs, text = logits_of(hooked, layer, added, tokens, None)
        if added is longer and not _same_positions(replay, layer, longer, tokens, *seen):
            return False
        ours, _ = logits_of(replay, layer, added, tokens, text)
        if torch.equal(ours, theirs):
            continue
        with random_rounding(hooked.model):
            rounded, _ = logits_of(hooked, layer, added, tokens, text)
        if noise_ratio(ours, theirs, rounded) > MAX_NOISE_RATIO:
            return False
    return True


def _as_long_as_activations(replay: Replay, layer: int, delta: Delta, tokens: str) -> Delta:
    """The vector, scaled to the median norm of the activations that it is added to."""
    steered = replay.site_tensor(layer, replay.site)[replay.masks[tokens]].float()
    if isinstance(delta, Change):
        return delta.as_strong_as(float(steered.norm(dim=-1).median()), layer, tokens) if len(steered) else delta
    # in float32 the squares of a strong vector overflow
    norm = float(delta.double().norm())
    if not norm or not len(steered):
        return delta
    return (delta.double() * (float(steered.norm(dim=-1).median()) / norm)).to(delta)


def _same_positions(replay: Replay, layer: int, delta: Delta, tokens: str, before: Tensor, after: Tensor) -> bool:
    """Whether a replay acts at the positions where the hooks act.

    Args:
        replay, layer, delta, tokens: as for `agrees`.
        before, after: the site's tensor in the model with hooks, before and after the cell, [batch, positions, width].
    """
    if isinstance(delta, Change):
        return torch.equal(replay.changed_positions(layer, delta, tokens), (after != before).any(-1))
    start, ours = replay.starts[tokens], replay.tensors[f"out{layer}"].float()
    later = replay.steered_output(layer, alone(delta), [tokens], start).float()
    ours = torch.cat((ours[:, :start], later), 1)
    along = delta.to(ours)
    shares = (ours - after.float()) @ along / along.square().sum()
    return bool((shares.abs() < 1 / 2).all())
