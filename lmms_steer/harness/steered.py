"""Steered models for lmms-eval.

`SteeringMixin` adds steering to any harness's model class: it takes the spec from the arguments, attaches the hooks and
records what was done. `LmmsEvalSteering` makes such a class usable from lmms-eval's command line. The classes below it
are the models that this package ships: `HfVlm` with steering, and model families with a default checkpoint and prompt
format.
"""

import hashlib
import inspect
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any, ClassVar, Self

import torch
from lmms_eval.utils import handle_arg_string

from lmms_steer._util.logging import print_notes
from lmms_steer.errors import UserError, unknown_name
from lmms_steer.extraction.first_use import extract_missing
from lmms_steer.harness import patches
from lmms_steer.harness.arguments import STEERED_MODEL_ARGS, check_keys, check_model, is_quoted, split_args, unquote
from lmms_steer.harness.command_line import end_command_line, is_command_line
from lmms_steer.harness.names import MODELS
from lmms_steer.harness.presets import expand_preset
from lmms_steer.harness.run_checks import chat_template_error
from lmms_steer.models.answer_bias import AnswerBias
from lmms_steer.models.budget_alpha import with_budget_alpha
from lmms_steer.models.contrasts import ContrastSettings
from lmms_steer.models.divergence import DivergenceMeter
from lmms_steer.models.image_directions import image_directions
from lmms_steer.models.prompts import PromptFormat
from lmms_steer.models.residual_norms import with_residual_norms
from lmms_steer.models.visuals import Visual
from lmms_steer.models.vlm import HfVlm
from lmms_steer.steering.budget import take_budget
from lmms_steer.steering.facts import facts_of_config
from lmms_steer.steering.hooks import Attachment, attach
from lmms_steer.steering.intervention import FIELDS
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.resolved import ResolvedSpec
from lmms_steer.steering.row_vectors import refuse_row_vectors, row_layers, row_vectors
from lmms_steer.steering.sites import sites
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.steering.support import check_config

logger = logging.getLogger(__name__)

_FROM_HARNESS = ("batch_size", "max_batch_size", "device")
"""Arguments that lmms-eval and lm-eval add to those of every model."""
_PACKAGES = ("lmms-steer", "lmms-eval", "transformers", "torch")
"""Packages whose versions a results file names."""


class SteeringMixin:
    """Adds steering to a harness's model class. A subclass inherits from this class first.

    The subclass calls `take_spec` with its arguments, `resolve_for` once the config is known, and `attach_to` once the
    model is loaded.

    Attributes:
        pretrained: the checkpoint as the user named it.
        spec: the spec as the user gave it.
        resolved: the spec that is applied.
        budget: the damage in nats that takes the place of alpha, `alpha=kl:0.1`; None for a number.
        attachment: the attached hooks.
        answer_bias: biases on answer words, or None.
        image: `blank` where every image is replaced by a grey one, or None.
        commit: the revision of the checkpoint on the Hub; None for another one.
        contrast: the decoding contrast, or None.
        divergence: measures how far the answers are from the plain model's, or None.
        text_only: whether the model is evaluated on text without images; residual norms are then measured on text.
        response_cache_in_use: whether lmms-eval caches responses (`--use_cache`).
    """

    pretrained: str
    spec: SteeringSpec = SteeringSpec()
    resolved: ResolvedSpec = ResolvedSpec()
    budget: float | None = None
    attachment: Attachment = Attachment()
    answer_bias: AnswerBias | None = None
    image: str | None = None
    commit: str | None = None
    contrast: ContrastSettings | None = None
    divergence: DivergenceMeter | None = None
    text_only: ClassVar[bool] = False
    response_cache_in_use: bool = False
    per_question: ClassVar[bool] = False
    """Whether the class computes vectors of single questions."""
    takes_other_args: ClassVar[bool] = True
    """Whether the model may take arguments that `known_args` does not name, as classes with `**kwargs` may."""

    @classmethod
    def known_args(cls) -> tuple[str, ...]:
        """The arguments that `--model_args` may hold: the keys of a spec, and what the class and its parents name."""
        inits = [vars(parent)["__init__"] for parent in cls.__mro__[:-1] if "__init__" in vars(parent)]
        declared = [one for init in inits for one in list(inspect.signature(init).parameters.values())[1:]]
        named = [one.name for one in declared if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        return tuple(dict.fromkeys(("preset", "steering", *FIELDS, *_FROM_HARNESS, *named)))

    def take_spec(self, model_args: dict[str, Any]) -> None:
        """Remove the keys of a spec from the arguments, and read the spec; those of a preset are written out before.

        Raises:
            UserError: for a misspelled argument, or a preset or spec that cannot be read.
        """
        check_keys(model_args, self.known_args(), self.takes_other_args)
        expanded = expand_preset(model_args)
        model_args.clear()
        model_args.update(expanded)
        given = {k: model_args.pop(k) for k in ("steering", *FIELDS) if k in model_args}
        # until the model is loaded and its alpha is found, a number stands in the place of a budget
        keys, self.budget = take_budget(given)
        self.spec = SteeringSpec.from_args(keys)
        refuse_row_vectors(self.spec, self.per_question)

    def resolve_for(self, config: Any, rank: int = 0) -> None:
        """Find the vectors, extract missing ones, fill in layer, alpha and tokens, and log what was done.

        Args:
            config: the model's config.
            rank: the process; only rank 0 logs.

        Raises:
            UserError: if the spec or one of its vectors is wrong.
        """
        check_config(config, self.pretrained)
        self.commit = getattr(config, "_commit_hash", None)
        for line in extract_missing(self.spec, self.pretrained):
            logger.info(line)
        self.resolved = resolve(self.spec, facts_of_config(config, self.pretrained))
        if rank == 0:
            for line in self.resolved.notes:
                logger.info(line)
            for line in self.resolved.warnings:
                logger.warning(line)

    def attach_to(self, model: Any, processor: Any, prompt_format: PromptFormat | None = None) -> None:
        """Attach the hooks. Residual norms and the alpha of a KL budget are read or measured first, where needed.

        Args:
            model: the loaded model.
            processor: its processor, or its tokenizer.
            prompt_format: the format for measuring norms; by default the one that matches the processor.

        Raises:
            UserError: as `lmms_steer.steering.hooks.attach`.
        """
        self.resolved = with_residual_norms(
            self.resolved, model, processor, self.pretrained, prompt_format, self.text_only
        )
        if self.budget is not None:
            self.resolved = with_budget_alpha(
                self.resolved, self.budget, model, processor, self.pretrained, prompt_format, self.text_only
            )
            self.spec = self.resolved.spec
            logger.info(self.resolved.notes[-1])
        tokenizer = getattr(processor, "tokenizer", processor)
        special_ids = getattr(tokenizer, "all_special_ids", None)
        self._attach = partial(attach, model, self.resolved, special_ids, on_failure=end_command_line)
        self.attachment = self._attach()

    @property
    def steering_record(self) -> dict[str, Any]:
        """The `steering` entry of the results file."""
        bias = {"answer_bias": self.answer_bias.words} if self.answer_bias else {}
        image = {"image": self.image} if self.image is not None else {}
        revision = {"revision": self.commit} if self.commit else {}
        contrast = {"contrast": self.contrast.record()} if self.contrast is not None else {}
        measured = self.divergence.record() if self.divergence is not None else {}
        divergence = {"divergence": measured} if measured else {}
        versions = {"versions": {name: version(name) for name in _PACKAGES}}
        return {
            "model": self.pretrained,
            **revision,
            **self.resolved.record(),
            **bias,
            **image,
            **contrast,
            **divergence,
            **versions,
        }

    @property
    def cache_key(self) -> str | None:
        """A hash of the vectors and biases that were read from files, for response caches; None for the baseline."""
        if not self.resolved.spec and not self.answer_bias:
            return None
        bias = self.answer_bias
        biases = sorted(zip(bias.ids, bias.words.values(), strict=True)) if bias is not None else []
        return hashlib.sha256(json.dumps([self.resolved.sha256, biases]).encode()).hexdigest()


class _NoChatTemplate:
    """An attribute that lmms-eval reads for `--apply_chat_template`; a wrapper may set one of its own instead."""

    def __get__(self, lm: object, owner: type) -> Any:
        if lm is None:
            return self
        raise chat_template_error()


class LmmsEvalSteering(SteeringMixin):
    """Steering for classes that lmms-eval creates from its command line."""

    chat_template = apply_chat_template = _NoChatTemplate()

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> Self:
        """Create the model, as lmms-eval does.

        A `UserError` ends lmms-eval's command line with status 2 and one line that says what is wrong.
        """
        if is_command_line():
            print_notes()
        try:
            lm = cls(**_merge_args(arg_string, additional_config or {}))
        except UserError as error:
            end_command_line(error)
            raise
        patches.remember(lm, arg_string)
        return lm

    def take_spec(self, model_args: dict[str, Any]) -> None:
        """As `SteeringMixin.take_spec`; prepares lmms-eval for the model, which may be given to it as an object.

        Raises:
            UserError: also for an argument that the model does not have; some wrappers of lmms-eval ignore such.
        """
        patches.install()
        super().take_spec(model_args)
        for name in model_args:
            if name not in _FROM_HARNESS and not self.takes(name):
                raise unknown_name("key", name, self.known_args(), "in --model_args")

    @classmethod
    def takes(cls, name: str) -> bool:
        """Whether `--model_args` may contain an argument; wrappers may read some from their `**kwargs`, by name."""
        theirs = [parent for parent in cls.__mro__ if not issubclass(parent, SteeringMixin) and parent is not object]
        inits = [vars(parent).get("__init__") for parent in theirs]
        sources = (inspect.getsource(init) for init in inits if inspect.isfunction(init))
        return name in cls.known_args() or any(f"{quote}{name}{quote}" in text for text in sources for quote in "'\"")


def create_model(model: str, model_args: str, **more: Any) -> Any:
    """One of this package's models by its `--model` name and `--model_args`, outside of lmms-eval.

    Args:
        model: a key of `lmms_steer.harness.names.MODELS`.
        model_args: as on the command line.
        **more: further arguments.

    Raises:
        UserError: for another model, or wrong arguments.
    """
    check_model(model)
    module, name = MODELS[model].rsplit(".", 1)
    return getattr(import_module(module), name)(**_merge_args(model_args, more))


def read_model_args(arg_string: str) -> dict[str, Any]:
    """Read `--model_args` as lmms-eval does.

    Raises:
        UserError: for text that is not a list of key=value pairs, or a key that is given twice.
    """
    given = split_args(arg_string, "--model_args")
    return {name: unquote(text) if is_quoted(text) else handle_arg_string(text) for name, text in given.items()}


def _merge_args(arg_string: str, additional: Mapping[str, Any]) -> dict[str, Any]:
    args = read_model_args(arg_string)
    for name, value in additional.items():
        if value is None:
            continue
        # --batch_size is 1 unless it is given
        default = name == "batch_size" and str(value) == "1"
        if name in args and not default and str(args[name]) != str(value):
            raise UserError(f"{name}={args[name]} in --model_args, but --{name} {value}: give one of them")
        args.setdefault(name, value)
    return args


class SteeredVlm(LmmsEvalSteering, HfVlm):
    """`--model steered_hf`: `HfVlm` with steering. Without the keys of a spec it is the baseline.

    Args:
        **model_args: those of `HfCheckpoint`, and either `steering`, a YAML file of interventions, or the fields of one
            intervention (`lmms_steer.steering.intervention.Intervention`).
    """

    takes_other_args = False
    per_question = True

    def __init__(self, **model_args: Any) -> None:
        self.take_spec(model_args)
        super().__init__(**model_args)
        self.attach_to(self.model, self.processor, self.prompt_format)
        # what acts in an encoder may act differently in the next call
        self.encodes_once = all(sites.get(one.site).tower == "decoder" for one in self.resolved.spec.interventions)

    @classmethod
    def known_args(cls) -> tuple[str, ...]:
        """The arguments that `--model_args` may contain, those of a spec included."""
        return STEERED_MODEL_ARGS

    def steering_questions(
        self, questions: Sequence[str], visuals: Sequence[Sequence[Visual]], doubled: bool
    ) -> AbstractContextManager[None]:
        """Compute the vectors of single questions that the spec names, for the rows of one batch."""
        needed = row_layers(self.resolved.spec)
        if not needed:
            return nullcontext()
        found = image_directions(self, needed, questions, visuals)
        if doubled:
            found = {name: {layer: torch.cat([v, v]) for layer, v in of.items()} for name, of in found.items()}
        return row_vectors(found)

    @property
    def is_plain(self) -> bool:
        """Whether answers are those of the model as it is."""
        return super().is_plain and not self.attachment

    @contextmanager
    def unsteered(self) -> Iterator[None]:
        """The block in which the model has no hooks."""
        self.attachment.remove()
        try:
            yield
        finally:
            self.attachment = self._attach()

    def prepare(self) -> None:
        """Resolve the spec before the weights are read, so that mistakes are found early."""
        self.resolve_for(self.config, self.rank)


class SteeredPaliGemma(SteeredVlm):
    """`--model steered_paligemma`: PaliGemma 1 and 2, which lmms-eval has no wrapper for."""

    default_pretrained = "google/paligemma2-3b-mix-448"
    default_prompt_format = "paligemma"


class SteeredIdefics3(SteeredVlm):
    """`--model steered_idefics3`: Idefics3 and SmolVLM, which lmms-eval has no wrapper for.

    The markers between the tiles of an image (`<row_1_col_2>`, …) count as text. `size` (longest edge) and
    `do_image_splitting` decide into how many tiles an image is cut.
    """

    default_pretrained = "HuggingFaceM4/Idefics3-8B-Llama3"
    default_prompt_format = "chat"
