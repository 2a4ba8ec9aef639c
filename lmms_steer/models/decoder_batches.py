"""The decoder's part of a batch of an encoder-decoder: its prompt, and an answer to be scored after it.

A prompt format makes what the encoder takes. It may also make `decoder_input_ids`, where a question belongs there; by
default the decoder's prompt is the one with which `generate` begins.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lmms_steer.errors import UserError
from lmms_steer.steering.decoder_inputs import decoder_prompt


def with_decoder_part(
    model: Any, batch: Mapping[str, Any], answers: Sequence[Sequence[int]] | None, pad_id: int
) -> dict[str, Any]:
    """A batch with `decoder_input_ids`; with answers, also `labels` and `decoder_attention_mask`, padded on the right.

    Decoders often number their positions from the first one on, padding included, so that padding on the left would
    change what they compute.

    Args:
        model: the encoder-decoder.
        batch: what a prompt format made.
        answers: the tokens of each answer.
        pad_id: fills the rows of shorter answers.

    Raises:
        UserError: for decoder prompts of different lengths in one batch, or an encoder whose rows begin with padding.
    """
    given = {name: value for name, value in batch.items() if name not in ("labels", "decoder_attention_mask")}
    prompt, _ = decoder_prompt(model, (), given, lambda name: getattr(model.generation_config, name, None))
    name, encoder, padding = type(model).__name__, batch.get("attention_mask"), batch.get("decoder_attention_mask")
    if padding is not None and not bool(padding.all()):
        raise UserError(f"the decoder prompts of a {name} have different lengths in one batch: use batch_size=1")
    if encoder is not None and not bool(encoder[:, 0].all()):
        raise UserError(f"the prompt format of a {name} pads its encoder on the left: use batch_size=1")
    if answers is None:
        return {**given, "decoder_input_ids": prompt}
    width = prompt.shape[1] + max(map(len, answers))
    ids = [torch.cat([row, row.new_tensor(answer)]) for row, answer in zip(prompt, answers, strict=True)]
    own = [[-100] * prompt.shape[1] + list(answer) for answer in answers]
    return {
        **given,
        "decoder_input_ids": _padded(ids, width, pad_id),
        "decoder_attention_mask": _padded([torch.ones_like(row) for row in ids], width, 0),
        "labels": _padded([prompt.new_tensor(row) for row in own], width, -100),
    }


def _padded(rows: Sequence[Tensor], width: int, value: int) -> Tensor:
    return torch.stack([torch.nn.functional.pad(row, (0, width - len(row)), value=value) for row in rows])
