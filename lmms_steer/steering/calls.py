"""Know what a forward call of the whole model runs on: which of its positions are prompt, and which were generated.

A decoder layer in transformers 5 does not know where in the sequence it is. A hook on the whole model does:

* Inside `generate`, the prompt is known when it is called (`lmms_steer.steering.generation`), and the cache tells where
  in the sequence a forward call begins. Some models generate with the language model inside of them, which is then
  called without the whole model (BLIP-2): the same hook is on it, for the calls that are not part of the whole's.
* In a forward call of the user's own, everything is prompt, except the positions that `continuation` marks.
* A call that goes on after a filled cache could be either. `continuation` must say which. So could one of a `generate`
  that was taken from the model before it was steered, and keeps no cache.

What is known belongs to one call in one thread, and is not kept on the model.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.errors import SteeringError, shorten
from lmms_steer.steering.cache_argument import given_cache
from lmms_steer.steering.decoder_inputs import decoder_arguments
from lmms_steer.steering.facts import decoder_shape
from lmms_steer.steering.generation import Generation, current_generation, is_unwatched
from lmms_steer.steering.placeholders import MEDIA, Placeholders
from lmms_steer.steering.positions import ids_of, token_mask

_BY_ID = (*MEDIA, "text", "both")
"""Token targets that are found by ids alone, without knowing where the prompt ends."""
_continuation: ContextVar[Tensor | None] = ContextVar("lmms_steer_continuation", default=None)


@contextmanager
def continuation(lengths: Tensor | Sequence[int] | int) -> Iterator[None]:
    """Mark the last positions of every forward call in the block, and in this thread, as generated.

    A scored answer is marked so that scoring it and generating it see the same steering. A loop that feeds generated
    tokens to a cache marks them with 1, and the pieces of a long prompt with 0. Calls of `generate` are not affected.

    Args:
        lengths: how many positions at the end of each row: int [batch], or one number for all rows. Padding after
            them counts too where no 2D attention mask shows it.

    Raises:
        SteeringError: for anything but whole numbers from 0 up; from a forward call with fewer positions.
    """
    token = _continuation.set(_whole_numbers(lengths))
    try:
        yield
    finally:
        _continuation.reset(token)


@dataclass(frozen=True, slots=True, eq=False)
class ForwardCall:
    """One forward call of the whole model.

    Attributes:
        input_ids: [batch, positions], as `lmms_steer.steering.positions.ids_of` gives them; of an
            encoder-decoder, the decoder's.
        attention_mask: [batch, positions], or None if nothing is padded.
        offset: the position in the sequence where the call begins: the length of the cache.
        generated: bool [batch, positions], the positions after the prompt; None if there are none, or no others.
        all_generated: whether no position is prompt.
        generation: the call of `generate` that this one is part of.
        known: whether the caller said what is prompt; if not, `generated` is a guess.
        mask_known: whether the attention mask shows which positions are padding.
        decisions: what the gates that were read in this call decided (`lmms_steer.steering.gate_hook`).
        reached: the hooks whose module has run in this call.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    offset: int = 0
    generated: Tensor | None = None
    all_generated: bool = False
    generation: Generation | None = None
    known: bool = True
    mask_known: bool = True
    decisions: dict[Any, Tensor] = field(default_factory=dict)
    reached: set[Any] = field(default_factory=set)

    def steered(
        self, tokens: str, phase: str, media: Placeholders, special_ids: frozenset[int] | None
    ) -> Tensor | None:
        """The positions of this call that an intervention changes.

        Args:
            tokens, phase: as in `lmms_steer.steering.intervention`.
            media: the model's placeholders.
            special_ids: the tokenizer's special ids, for the paper's masks.

        Returns:
            bool [batch, positions], or None for no position.

        Raises:
            SteeringError: if the positions are not known.
        """
        if not self.known and (phase != "all" or tokens not in _BY_ID):
            raise SteeringError(
                f"tokens={tokens},phase={phase}: this forward call goes on after a filled cache, or is part of a"
                " generate that was taken from the model before it was steered, and nothing says whether its tokens are"
                " prompt or generated. Use model.generate, or put the call into `with lmms_steer.continuation(n):`,"
                " where n is the number of generated tokens at its end"
            )
        # generated tokens are text, whatever their ids
        after = self._after_prompt() if phase != "prefill" and tokens not in MEDIA else None
        if phase == "decode" or self.all_generated:
            return after
        before = self._in_prompt(tokens, media, special_ids)
        return before if after is None else before | after

    def _after_prompt(self) -> Tensor | None:
        return torch.ones_like(self.input_ids, dtype=torch.bool) if self.all_generated else self.generated

    def _in_prompt(self, tokens: str, media: Placeholders, special_ids: frozenset[int] | None) -> Tensor:
        if self.generation is not None:
            prompt = self.generation.mask(media, tokens, special_ids).to(self.input_ids.device)
            batch, positions = self.input_ids.shape
            part = self.generation.columns(prompt, self.offset, batch)[:, :positions]
            missing = positions - part.shape[1]
            return nn.functional.pad(part, (0, missing)) if missing else part
        if tokens not in _BY_ID:
            if self.offset:
                raise SteeringError(
                    f"tokens={tokens} counts from the end of the prompt, but this prompt comes in pieces: use"
                    " model.generate, tokens=text or tokens=both"
                )
            if not self.mask_known:
                raise SteeringError(f"tokens={tokens}: this attention mask does not show the padding, pass a 2D mask")
        if self.offset and media.video_span is not None and tokens in ("image", "video"):
            raise SteeringError(
                f"tokens={tokens}: this model tells videos from images by what stands before them, but this prompt"
                " comes in pieces: use model.generate or tokens=both"
            )
        before = None if self.generated is None else ~self.generated
        mask = token_mask(self.input_ids, self.attention_mask, media, tokens, before, special_ids)
        return mask if before is None else mask & before


_calls: ContextVar[dict[tuple[int, bool], ForwardCall]] = ContextVar("lmms_steer_calls", default={})  # noqa: B039
"""id of a `CallTracker`, whether of the generating part ▸ its forward call in this thread; never changed in place."""


class CallTracker:
    """Hooks on the whole model that show its layers' hooks the forward call in progress.

    Args:
        model: the transformers model, which may be inside of a wrapper.
        on_failure: called with the error of a call that cannot be steered, before it is raised.
        part: the language model inside that generates by itself (`lmms_steer.steering.anatomy.generating_part`).

    Attributes:
        failure: the first error that a hook of this attachment raised. Some callers swallow exceptions.
        must_run: hooks at modules that might not run, each with its layer and a name for messages.
        acted: device ▸ whether any position was steered there, bool []; empty before the first call.
    """

    def __init__(
        self,
        model: nn.Module,
        on_failure: Callable[[SteeringError], None] | None = None,
        part: nn.Module | None = None,
    ) -> None:
        self.model, self.on_failure, self.part = model, on_failure, part
        self.failure: SteeringError | None = None
        self.must_run: list[tuple[Any, int, str]] = []
        self.acted: dict[torch.device, Tensor] = {}

    def __reduce_ex__(self, protocol: Any) -> Any:
        # a copy of the model would keep hooks that nothing removes
        raise SteeringError("a steered model cannot be copied or pickled: do it outside of the steer block")

    @property
    def call(self) -> ForwardCall | None:
        """The forward call in progress in this thread: the whole model's, or else its generating part's."""
        calls = _calls.get()
        return calls.get((id(self), False)) or calls.get((id(self), True))

    def note(self, mask: Tensor) -> None:
        """Note the positions that a hook steers, bool of any shape. What is noted stays on the device, unread."""
        before = self.acted.get(mask.device)
        self.acted[mask.device] = mask.any() if before is None else before | mask.any()

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The forward pre-hook of the model, its wrapper and its generating part.

        Raises:
            SteeringError: for a call whose positions are not known.
        """
        in_part = module is self.part
        if in_part and (id(self), False) in _calls.get():
            return
        with self.watch_failures():
            if getattr(module, "_is_replica", False):
                raise SteeringError(
                    "DataParallel on several devices runs copies of the model, which cannot be steered: use one process"
                    " for each device (DistributedDataParallel, accelerate launch)"
                )
            call = self._read(module if in_part else self.model, self._by_name(module, args, kwargs))
            _calls.set({**_calls.get(), (id(self), in_part): call})

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        """The forward hook, which also runs after a forward that failed, with None as its output.

        Raises:
            SteeringError: if a module that must run did not.
        """
        ended = id(self), module is self.part
        calls = dict(_calls.get())
        call = calls.pop(ended, None)
        _calls.set(calls)
        if call is None or output is None:
            return
        for hook, layer, name in self.must_run:
            # a model that drafts for itself may leave at a lower layer
            if hook not in call.reached and layer < decoder_shape(self.model.config)[0]:
                with self.watch_failures():
                    raise SteeringError(f"{name} did not run in this forward call, so that nothing was steered there")

    def forget_calls(self) -> None:
        """Forget the calls of this thread that an interrupt ended: the hook after a forward does not run then."""
        _calls.set({key: call for key, call in _calls.get().items() if key[0] != id(self)})

    @contextmanager
    def watch_failures(self) -> Iterator[None]:
        """Keep an error that is raised in the block, because some callers swallow every exception."""
        try:
            yield
        except SteeringError as error:
            self.failure = self.failure or error
            if self.on_failure is not None:
                self.on_failure(error)
            raise

    def _by_name(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a forward call by their names: in BLIP-2, `pixel_values` come before `input_ids`."""
        if not args:
            return kwargs
        names = list(inspect.signature(module.forward).parameters)
        if "input_ids" not in names:
            # a wrapper
            names = list(inspect.signature(self.model.forward).parameters)
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def _read(self, model: nn.Module, kwargs: Mapping[str, Any]) -> ForwardCall:
        kwargs = decoder_arguments(model, kwargs)
        cache = given_cache(kwargs)
        offset = 0 if cache is None else _length(model, cache)
        generation = current_generation(model)
        given, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        if not isinstance(given, Tensor) and model is self.part and generation is not None and embeds is not None:
            return _in_generation(_ids_of_embeds(embeds, offset, generation), offset, generation)
        if not isinstance(given, Tensor):
            raise SteeringError("steering needs input_ids: inputs_embeds do not show which positions are images")
        if kwargs.get("cu_seq_lens_q") is not None:
            raise SteeringError("packed sequences and continuous batching cannot be steered: use a padded batch")
        ids = ids_of(kwargs, offset)
        if generation is not None:
            return _in_generation(ids, offset, generation)
        attention_mask = kwargs.get("attention_mask")
        mask_known = attention_mask is None or (isinstance(attention_mask, Tensor) and attention_mask.dim() == 2)
        if mask_known and attention_mask is not None:
            attention_mask = _columns_of_call(attention_mask, ids, offset)
        lengths = _continuation.get()
        if lengths is None:
            # such a generate passes what it has written as if it were prompt, unless a cache holds the prompt
            known = not offset and not (cache is None and is_unwatched(model))
            return ForwardCall(ids, attention_mask if mask_known else None, offset, known=known, mask_known=mask_known)
        generated = _last_positions(ids, attention_mask if mask_known else None, lengths)
        return ForwardCall(
            ids,
            attention_mask if mask_known else None,
            offset,
            generated,
            all_generated=generated is not None and bool(generated.all()),
            mask_known=mask_known,
        )


def _length(model: nn.Module, cache: Any) -> int:
    """The number of positions that a cache holds.

    Raises:
        SteeringError: for a cache that does not know it: the state of a recurrent model.
    """
    try:
        return int(cache.get_seq_length())
    except (AttributeError, ValueError) as error:
        raise SteeringError(
            f"the cache of a {type(model).__name__} does not say how many tokens it has seen, so what is prompt is not"
            " known: pass use_cache=False"
        ) from error


def _ids_of_embeds(embeds: Tensor, offset: int, generation: Generation) -> Tensor:
    """The prompt's ids in place of embeddings that the whole model's `generate` made of them.

    Raises:
        SteeringError: if the embeddings are not the prompt's.
    """
    batch, positions = embeds.shape[:2]
    ids = generation.columns(generation.known_ids().to(embeds.device), offset, batch)[:, :positions]
    if ids.shape[1] != positions:
        raise SteeringError(
            f"the language model runs on {positions} embeddings from position {offset} on, but the prompt ends at"
            f" {generation.end}: this way of generating cannot be steered"
        )
    return ids


def _in_generation(ids: Tensor, offset: int, generation: Generation) -> ForwardCall:
    """A forward call inside `generate`.

    Raises:
        SteeringError: if it runs on other ids than the prompt's at the prompt's positions.
    """
    batch, positions = ids.shape
    in_prompt = min(max(generation.end - offset, 0), positions)
    if in_prompt:
        expected = generation.columns(generation.known_ids().to(ids.device), offset, batch)[:, :in_prompt]
        if not torch.equal(expected, ids[:, :in_prompt]):
            raise SteeringError(
                "inside generate, the model runs on other tokens than the prompt that generate was given: this way of"
                " generating cannot be steered"
            )
    generated = None
    if 0 < in_prompt < positions:
        generated = torch.arange(positions, device=ids.device).expand(batch, -1) >= in_prompt
    return ForwardCall(ids, None, offset, generated, all_generated=not in_prompt, generation=generation)


def _columns_of_call(attention_mask: Tensor, ids: Tensor, offset: int) -> Tensor:
    """The columns of a 2D mask that belong to the call's positions; the mask may be longer, for a static cache.

    Raises:
        SteeringError: for a mask that does not reach to the end of the call.
    """
    positions = ids.shape[1]
    if attention_mask.shape[1] < offset + positions:
        raise SteeringError(
            f"the attention mask has {attention_mask.shape[1]} columns, but the call ends at position"
            f" {offset + positions} of the sequence"
        )
    return attention_mask[:, offset : offset + positions]


def _whole_numbers(lengths: object) -> Tensor:
    """The lengths that `continuation` was given, int [batch] or int []."""
    try:
        numbers = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.tensor(False)
    if numbers.dtype == torch.bool or numbers.is_floating_point() or numbers.is_complex() or bool((numbers < 0).any()):
        raise SteeringError(
            f"continuation({shorten(lengths)}): expected how many positions at the end are generated, a whole number"
            " or one for each row"
        )
    return numbers


def _last_positions(ids: Tensor, attention_mask: Tensor | None, lengths: Tensor) -> Tensor | None:
    """bool [batch, positions]: the last `lengths[row]` positions of each row; None for 0, which is for all rows.

    Padding at the right end, which the mask shows, is not counted.
    """
    batch, positions = ids.shape
    if not lengths.dim():
        if not lengths:
            return None
        lengths = lengths.expand(batch)
    if lengths.shape != (batch,):
        raise SteeringError(f"continuation has lengths for {lengths.numel()} rows, but the batch has {batch}")
    lengths, place = lengths.to(ids.device), torch.arange(positions, device=ids.device).expand(batch, -1)
    ends = torch.full_like(lengths, positions)
    if attention_mask is not None:
        real = attention_mask.to(ids.device) != 0
        ends = torch.where(real.any(dim=1), (place * real).amax(dim=1) + 1, ends)
    if bool((lengths > ends).any()):
        raise SteeringError(
            f"continuation: {int(lengths.max())} positions at the end of a row are generated, but its forward call has"
            f" {int(ends.min())}"
        )
    return place >= (ends - lengths).unsqueeze(1)
