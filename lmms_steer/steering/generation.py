"""Know the prompt while `generate` runs: how long it is, and which ids it has.

`generate` is wrapped in the classes of the models that are steered. The wrapper records the prompt for the time of the
call and in the calling thread only, and does nothing for a model without steering hooks.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.errors import SteeringError, UserError
from lmms_steer.steering.decoder_inputs import decoder_prompt
from lmms_steer.steering.placeholders import Placeholders
from lmms_steer.steering.positions import ids_of, token_mask
from lmms_steer.steering.support import has_encoder

_MARK = "_lmms_steer_watched"
"""Attribute of a `generate` that was wrapped."""
_wrapped: set[CodeType] = set()
"""The code of every `generate` that was wrapped."""


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """One call of `generate`.

    Attributes:
        input_ids: [batch, positions] of the prompt, or of its end if the beginning is in a cache already, as
            `lmms_steer.steering.positions.ids_of` gives them; None if the call did not say.
        attention_mask: [batch, start + positions], or None if nothing is padded.
        start: the position in the sequence where `input_ids` begins.
        decisions: what gates decided about each prompt, kept for the whole call (`lmms_steer.steering.gate_hook`).
    """

    input_ids: Tensor | None
    attention_mask: Tensor | None = None
    start: int = 0
    decisions: dict[Any, Tensor] = field(default_factory=dict)
    _masks: dict[Any, Tensor] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The position in the sequence where the prompt ends."""
        return self.start + self.known_ids().shape[1]

    def known_ids(self) -> Tensor:
        """The ids of the prompt.

        Raises:
            SteeringError: if `generate` was called without them.
        """
        if self.input_ids is None:
            raise SteeringError(
                "generate was called without input_ids, so that the prompt is not known: pass input_ids"
            )
        return self.input_ids

    def mask(self, media: Placeholders, tokens: str, special_ids: frozenset[int] | None) -> Tensor:
        """The positions of the prompt that `tokens` selects, bool [batch, positions]."""
        key = media, tokens, special_ids
        if key not in self._masks:
            self._masks[key] = token_mask(self.known_ids(), self.attention_mask, media, tokens, special_ids=special_ids)
        return self._masks[key]

    def columns(self, values: Tensor, offset: int, batch: int) -> Tensor:
        """The part of a tensor of the prompt that a forward call covers.

        Args:
            values: [batch of the prompt, positions of the prompt].
            offset: the position in the sequence where the call begins.
            batch: the call's batch size: a multiple of the prompt's, for beams and several sequences.

        Returns:
            [batch, positions of the prompt from `offset` on].
        """
        rows = values.shape[0]
        if batch % rows or offset < self.start:
            raise SteeringError(
                f"the model runs on {batch} rows from position {offset} on, but generate was given {rows} prompts"
                f" from position {self.start} on"
            )
        part = values[:, offset - self.start :]
        return part if batch == rows else part.repeat_interleave(batch // rows, 0)


_generations: ContextVar[dict[int, Generation]] = ContextVar("lmms_steer_generations", default={})  # noqa: B039
"""id of a model ▸ its call of `generate` in this thread; never changed in place."""


def current_generation(model: nn.Module) -> Generation | None:
    """The model's call of `generate` that is in progress in this thread."""
    return _generations.get().get(id(model))


def is_unwatched(model: nn.Module) -> bool:
    """Whether the call in progress is part of a `generate` of the model of which nothing was recorded.

    That is one which the caller has kept from before the class was wrapped (`generate = model.generate`), or which
    began before the model was steered.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in _wrapped and frame.f_locals.get("self") is model:
            return True
        frame = frame.f_back
    return False


def watch_generate(model: nn.Module, steered_by: Callable[[nn.Module], Collection[object]]) -> None:
    """Wrap `generate` in each class of the model that defines it, once.

    Args:
        model: its class and the classes that it inherits from are searched.
        steered_by: what steers a model at the time of a call.

    Raises:
        UserError: for a model whose own `generate` was replaced, as a repository's `custom_generate` does.
    """
    if "generate" in vars(model):
        raise UserError(
            f"cannot steer this {type(model).__name__}: its generate was replaced (custom_generate), so that what is"
            " prompt would not be known"
        )
    for owner in type(model).__mro__:
        original = vars(owner).get("generate")
        if original is not None and not hasattr(original, _MARK):
            owner.generate = _watched(original, steered_by)  # type: ignore[attr-defined]


def _watched(original: Callable[..., Any], steered_by: Callable[[nn.Module], Collection[object]]) -> Callable[..., Any]:
    @functools.wraps(original)
    def generate(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        before = steered_by(self)
        if not before:
            return original(self, *args, **kwargs)
        if _is_assistant(args, kwargs):
            if current_generation(self) is None:
                raise SteeringError(
                    "a steered model cannot be another model's assistant: steer the model that it assists"
                )
            # the same model drafts and checks: both have one prompt
            return original(self, *args, **kwargs)
        generation = _read_prompt(self, args, kwargs)

        def check_block(*_: Any) -> None:
            # another thread may leave the block meanwhile, as the reader of a streamer does
            now = steered_by(self)
            if current_generation(self) is generation and any(one not in now for one in before):
                raise SteeringError(
                    "the steer block ended while generate ran in another thread: leave the block when generate has"
                    " returned"
                )

        # a class that calls `super().generate` may have changed the prompt: the innermost call counts
        with _generating(self, generation):
            watched = self.register_forward_pre_hook(check_block)
            try:
                returned = original(self, *args, **kwargs)
            finally:
                watched.remove()
            # the block may have ended within the last forward call
            check_block()
        return returned

    setattr(generate, _MARK, True)
    _wrapped.add(inspect.unwrap(original).__code__)
    return generate


@contextmanager
def _generating(model: nn.Module, generation: Generation) -> Iterator[None]:
    token = _generations.set({**_generations.get(), id(model): generation})
    try:
        yield
    finally:
        _generations.reset(token)


def _read_prompt(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Generation:
    """The prompt in the arguments of `generate`.

    Raises:
        SteeringError: for a way of generating in which the model also runs on other prompts.
    """
    guidance = _setting(model, "guidance_scale", args, kwargs)
    if guidance not in (None, 1):
        raise SteeringError(
            f"guidance_scale={guidance}: the model also runs on a prompt without the question, which is not steered"
            " alike; leave it out"
        )
    if _setting(model, "cache_implementation", args, kwargs) == "paged":
        raise SteeringError("cache_implementation=paged: continuous batching cannot be steered; leave it out")
    if has_encoder(getattr(model, "config", None)):
        prompt, padding = decoder_prompt(model, args, kwargs, lambda name: _setting(model, name, args, kwargs))
        return Generation(prompt, padding, 0 if padding is None else padding.shape[1] - prompt.shape[1])
    ids = args[0] if args else kwargs.get("inputs")
    ids = kwargs.get("input_ids") if ids is None else ids
    if not isinstance(ids, Tensor) or ids.dim() != 2 or torch.is_floating_point(ids):
        return Generation(None)
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        return Generation(ids_of({**kwargs, "input_ids": ids}), _mask_without_pads(model, ids, args, kwargs))
    # with a cache, the ids may be only what is new; the mask then still covers the whole sequence
    start = mask.shape[1] - ids.shape[1]
    return Generation(ids_of({**kwargs, "input_ids": ids}, start), mask, start)


def _mask_without_pads(model: nn.Module, ids: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The mask that transformers makes where none is given: pad tokens are padding, unless they also end a sequence."""
    pad, eos = _setting(model, "pad_token_id", args, kwargs), _setting(model, "eos_token_id", args, kwargs)
    ends = eos if isinstance(eos, list | tuple) else [eos]
    return None if pad is None or pad in ends else ids != int(pad)


def _is_assistant(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    config = _config(args, kwargs)
    return bool(getattr(config, "is_assistant", False) or kwargs.get("is_assistant"))


def _setting(model: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A generation setting: of the call, of the configuration that it was given, or else of the model."""
    configs = _config(args, kwargs), getattr(model, "generation_config", None)
    values = [kwargs.get(name), *(getattr(config, name, None) for config in configs)]
    return next((value for value in values if value is not None), None)


def _config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 else kwargs.get("generation_config")
