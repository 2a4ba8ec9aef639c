"""Steered models for lm-evaluation-harness: its Hugging Face models with the keys of a spec among their arguments.

`steered_hf` is its `hf` (text) and `steered_hf_multimodal` its `hf-multimodal` (with images, generation only). lm-eval
0.4.13 does not read entry points for models, so `lmms_steer.harness.lm_eval_command` registers both.
"""

import copy
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import AutoConfig

from lmms_steer.errors import SteeringError, UserError, unknown_name
from lmms_steer.harness.arguments import check_repeated, merge_args
from lmms_steer.harness.steering_mixin import FROM_HARNESS, SteeringMixin
from lmms_steer.models import MODEL_ARGS
from lmms_steer.models.generation import SETTINGS, SWITCHES, TRANSFORMERS
from lmms_steer.models.loading import checkpoint_name, load_or_refuse
from lmms_steer.steering.calls import continuation
from lmms_steer.steering.support import check_config, has_encoder
from lmms_steer.vectors.backbones import checkpoint
from lmms_steer.vectors.weights import weights_sha256

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""lm-eval's names for the number of tokens that are generated."""
_LENGTH = SETTINGS["max_new_tokens"]
_OWN_SETTINGS = ("until", *_LENGTHS)
"""Settings of lm-eval besides those of `generate`."""
_OF_TRANSFORMERS = ("device_map", "attn_implementation", "load_in_4bit", "load_in_8bit")
"""Arguments that lm-eval's models do not name, but pass on to transformers."""
_WITHOUT_MEDIA = 2
"""Arguments of a request without images: its context, and its answer or its settings."""
_CACHE_OWNER = "lmms_steer"
"""The key in lm-eval's cache of answers under which their model and spec are noted."""


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A task's `generation_kwargs`, with their numbers as `generate` takes them, and one name for the number of tokens.

    Raises:
        UserError: for a setting that `generate` does not have, a wrong value, or sampling at temperature 0, which
            transformers refuses.
    """
    # the name that both models of lm-eval know
    checked = {name: value for name, value in settings.items() if name not in _LENGTHS}
    lengths = {name: _LENGTH.read(name, settings[name]) for name in _LENGTHS if settings.get(name) is not None}
    if len(set(lengths.values())) > 1:
        given = ", ".join(f"{name}={value}" for name, value in lengths.items())
        raise UserError(f"generation_kwargs: {given} are the same setting: give one")
    for name, value in list(checked.items()):
        if name in SETTINGS and value is not None:
            checked[name] = SETTINGS[name].read(name, value)
        elif name in SWITCHES and not isinstance(value, bool):
            raise UserError(f"generation_kwargs: {name}={value}: expected True or False")
        elif name not in (*TRANSFORMERS, *_OWN_SETTINGS):
            raise unknown_name("key", name, {*SETTINGS, *SWITCHES, *_OWN_SETTINGS}, "in generation_kwargs")
    if checked.get("do_sample") and not checked.get("temperature"):
        raise UserError("generation_kwargs: do_sample=True needs a temperature above 0; lm-eval's default is 0")
    if lengths:
        checked["max_gen_toks"] = next(iter(lengths.values()))
    return checked


class _OfOriginals:
    """Keeps each answer, as soon as it is there, under the settings by which a cache looks it up after a kill.

    Args:
        hook: lm-eval's own, into its cache of answers.
        originals: settings as they were read ▸ those that were read so, each once.
    """

    def __init__(self, hook: Any, originals: Mapping[str, Mapping[str, Any]]) -> None:
        self.hook, self.originals = hook, originals

    def add_partial(self, attr: str, request: tuple[str, Any], answer: str) -> None:
        question, read = request
        for settings in self.originals[repr(read)].values():
            self.hook.add_partial(attr, (question, settings), answer)


class SteeredLmEval(SteeringMixin):
    """What both models share: the spec is resolved before the weights are loaded, and attached afterwards.

    A scored continuation counts as generated text, so phase `prefill` steers its context only. (lm-eval's own `steered`
    steers every position, as phase `all` does.)
    """

    newest: ClassVar[Callable[[], Any]] = staticmethod(lambda: None)
    """The model that was made last. lm-eval passes only its arguments to what names the output folder."""

    def __init__(self, pretrained: Any, **model_args: Any) -> None:
        # input ids of a request ▸ how many of the last of them are the answer's
        self._answer_lengths: dict[tuple[int, ...], int] = {}
        self.take_spec(model_args)
        self.pretrained = checkpoint_name(pretrained)
        # those that may change answers, unlike the batch size and the device
        self._other_args = {name: value for name, value in model_args.items() if name not in FROM_HARNESS}
        source = checkpoint(self.pretrained)
        trust_remote_code = model_args.get("trust_remote_code") is True
        revision = {"revision": model_args["revision"]} if "revision" in model_args else {}
        config = load_or_refuse(
            self.pretrained, AutoConfig.from_pretrained, source, trust_remote_code=trust_remote_code, **revision
        )
        check_config(config, self.pretrained)
        if has_encoder(config):
            raise UserError(f"{self.pretrained} is an encoder-decoder: evaluate it with lmms-eval --model steered_hf")
        self.resolve_for(config, revision=revision.get("revision"))
        try:
            super().__init__(pretrained=source, **model_args)  # type: ignore[call-arg]
        except TypeError as error:
            # lm-eval gives what it does not know to transformers
            unknown = next((name for name in model_args if f"argument '{name}'" in str(error)), None)
            if unknown is None:
                raise
            raise unknown_name("key", unknown, self.known_args(), "in --model_args") from error
        wrapper: Any = self
        self.attach_to(wrapper.model, getattr(self, "processor", None) or wrapper.tokenizer)
        SteeredLmEval.newest = weakref.ref(self)

    def take_spec(self, model_args: dict[str, Any]) -> None:
        """As `SteeringMixin.take_spec`.

        Raises:
            UserError: also for an argument that only the models for lmms-eval have, given or set by a preset.
        """
        given = dict(model_args)
        super().take_spec(model_args)
        for name, value in model_args.items():
            if name in MODEL_ARGS and name not in (*self.known_args(), *_OF_TRANSFORMERS):
                preset = "" if name in given else f", which preset={given['preset']} sets"
                raise UserError(
                    f"{name}={value}{preset}: only the models for lmms-eval have this setting; leave it out"
                )

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        """Create the model, as lm-eval does.

        Raises:
            UserError: also for a key that is given several times.
        """
        check_repeated([part for part in arg_string.split(",") if part], "model_args")
        parent: Any = super()
        model: Self = parent.create_from_arg_string(arg_string, additional_config)
        return model

    @classmethod
    def create_from_arg_obj(cls, arg_dict: Mapping[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """Create the model from `--model_args` as lm-eval's command line has parsed them.

        Raises:
            UserError: also for an argument that an option of the command line gives another value.
        """
        check_repeated([f"{name}={value}" for name, value in arg_dict.items()], "--model_args")
        return cls(**merge_args({name.strip(): value for name, value in arg_dict.items()}, additional_config or {}))

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse a cache of answers of other weights, another spec or other arguments.

        lm-eval's key is the question alone.

        Raises:
            UserError: for such a cache.
        """
        answers = cache_hook.dbdict
        if answers is not None:
            adapter = Path(str(self._other_args.get("peft")))
            weights = [self.cache_key, weights_sha256(adapter) if adapter.is_dir() else None]
            own = json.dumps([self.pretrained, *weights, self._other_args], sort_keys=True, default=str)
            if answers.get(_CACHE_OWNER, own if not len(answers) else None) != own:
                raise UserError(
                    "--use_cache holds answers of another model or spec, of other weights or model_args, or of other"
                    " versions of lmms-steer, transformers or torch: give each one a cache of its own"
                )
            answers[_CACHE_OWNER] = own
        parent: Any = super()
        parent.set_cache_hook(cache_hook)

    def generate_until(self, requests: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """The generated text of each request.

        Raises:
            UserError: for a wrong setting among a task's `generation_kwargs`.
        """
        # copies, because a cache looks the answers up by the original settings
        checked = [copy.copy(request) for request in requests]
        originals: dict[str, dict[str, Any]] = {}
        for request in checked:
            question, settings, *rest = request.args
            read = _checked(settings)
            originals.setdefault(repr(read), {})[repr(settings)] = settings
            request.arguments = (question, read, *rest)
        parent: Any = super()
        wrapper: Any = self
        hook, wrapper.cache_hook = wrapper.cache_hook, _OfOriginals(wrapper.cache_hook, originals)
        try:
            return parent.generate_until(checked, *args, **kwargs)
        finally:
            wrapper.cache_hook = hook

    def _loglikelihood_tokens(self, requests: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        wrapper: Any = self
        parent: Any = super()
        if not self.attachment:
            return parent._loglikelihood_tokens(requests, *args, **kwargs)
        longest = wrapper.max_length + 1
        found: dict[int, Any] = {}
        while len(found) < len(requests):
            together = []
            for number in range(len(requests)):
                _, context, answer = requests[number]
                # the last token is predicted but never part of the input
                row, length = tuple((context + answer)[-longest:][:-1]), len(answer) - 1
                # of two requests with the same ids, another may begin its answer elsewhere: that is for another call
                if number not in found and self._answer_lengths.setdefault(row, length) == length:
                    together.append(number)
            try:
                returned = parent._loglikelihood_tokens([requests[number] for number in together], *args, **kwargs)
            finally:
                self._answer_lengths.clear()
            found |= dict(zip(together, returned, strict=True))
        return [found[number] for number in range(len(requests))]

    def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Any:
        parent: Any = super()
        if not self.attachment or not self._answer_lengths:
            return parent._model_call(inps, *args, **kwargs)
        with continuation(torch.tensor([self._answer_length(row) for row in inps.tolist()])):
            return parent._model_call(inps, *args, **kwargs)

    def _answer_length(self, row: list[int]) -> int:
        """The number of positions of a row that are answer, or padding after it."""
        for end in range(len(row), 0, -1):
            answer = self._answer_lengths.get(tuple(row[:end]))
            if answer is not None:
                return len(row) - end + answer
        raise SteeringError("lm-eval scored a text that it was not asked for: where its answer begins is not known")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The checkpoint's chat template, as lm-eval asks for it with `--apply_chat_template`.

        Raises:
            UserError: if it is asked for and there is none.
        """
        parent: Any = super()
        if chat_template:
            self._require_template()
        template: str | None = parent.chat_template(chat_template)
        return template

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        """A conversation as one prompt.

        Raises:
            UserError: for a checkpoint without a chat template.
        """
        self._require_template()
        parent: Any = super()
        return parent.apply_chat_template(*args, **kwargs)

    def _require_template(self) -> None:
        wrapper: Any = self
        if not getattr(getattr(self, "processor", None) or wrapper.tokenizer, "chat_template", None):
            raise UserError(f"--apply_chat_template: {self.pretrained} has no chat template; leave it out")

    def get_model_info(self) -> dict[str, Any]:
        """The `config` entry of the results file: lm-eval's own, and the record of the steering.

        Raises:
            UserError: as `check_record`.
        """
        self.check_record()
        self.end_evaluation()
        parent: Any = super()
        return {**parent.get_model_info(), "steering": self.steering_record}


class SteeredHFLM(SteeredLmEval, HFLM):  # type: ignore[misc]
    """`--model steered_hf`."""

    text_only = True


class SteeredHFMultimodalLM(SteeredLmEval, HFMultimodalLM):  # type: ignore[misc]
    """`--model steered_hf_multimodal`. Log-likelihoods are for questions without images."""

    def loglikelihood(self, requests: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """The log-likelihood of each request's answer, and whether it is the greedy one.

        Raises:
            UserError: for questions with images, which lm-eval does not score.
        """
        if requests and len(requests[0].args) > _WITHOUT_MEDIA:
            raise UserError(
                "steered_hf_multimodal generates answers to questions with images, and scores none: take a task that"
                " generates, or lmms-eval --model steered_hf, which scores them"
            )
        return super().loglikelihood(requests, *args, **kwargs)
