"""Encode the images, videos and sounds of a batch once where the next batch shows the same ones."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from lmms_steer.steering.anatomy import unwrap

ENCODERS = ("get_image_features", "get_video_features", "get_audio_features")
"""The methods by which the models of transformers encode media, projectors included."""
CALLS_KEPT = 2
"""Calls that are remembered: a batch with its images, and the same batch with blank ones."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class EncodedMedia:
    """Remembers what a model's encoders returned for the last calls, and returns it again for the same arguments.

    Only whole calls are reused, with arguments that are equal to the bit, so that the result is the one that the
    encoder would give: features of an image depend in their last bits on the images that are encoded with it.

    Args:
        model: a model of transformers; None if nothing is to be reused.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self.owner = None if model is None else getattr(unwrap(model), "base_model", model)
        self._calls: list[tuple[Any, Any]] = []

    def run(self, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Call a function that runs the model; as `reusing`."""
        with self.reusing():
            return function(*args, **kwargs)

    @contextmanager
    def reusing(self) -> Iterator[None]:
        """Reuse what the encoders returned, in the block. After an out-of-memory error nothing is remembered."""
        with self._replaced_encoders():
            try:
                yield
            except torch.OutOfMemoryError:
                self._calls.clear()
                raise

    @contextmanager
    def _replaced_encoders(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name in ENCODERS:
                encode = getattr(self.owner, name, None)
                if callable(encode) and name not in vars(self.owner):
                    # `generate` reads the signature
                    setattr(self.owner, name, wraps(encode)(partial(self._encode, name, encode)))
                    stack.callback(delattr, self.owner, name)
            yield

    def _encode(self, name: str, encode: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return encode(*args, **kwargs)
        call = (name, args, kwargs)
        for place, (earlier, output) in enumerate(self._calls):
            if _same(call, earlier):
                self._calls.append(self._calls.pop(place))
                return _copied(output)
        output = _without_layers(encode(*args, **kwargs))
        self._calls = [*self._calls[1 - CALLS_KEPT :], (call, output)]
        return _copied(output)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
            return False
        alike = one.dtype == other.dtype and one.device == other.device and one.shape == other.shape
        return one is other or (alike and torch.equal(one, other))
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return bool(one == other)


def _copied(value: Any) -> Any:
    """A copy, because `generate` and the models change what an encoder returned: they repeat it for beams."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, ModelOutput):
        return type(value)(**{key: _copied(own) for key, own in value.items()})
    if type(value) in (list, tuple):
        return type(value)(_copied(own) for own in value)
    return value


def _without_layers(output: Any) -> Any:
    """The output without the hidden states of every layer, which are large and which no decoder reads."""
    if isinstance(output, ModelOutput):
        for name in ("hidden_states", "attentions"):
            if output.get(name) is not None:
                output[name] = None
    return output
