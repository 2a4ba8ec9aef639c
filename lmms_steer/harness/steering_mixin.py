"""Steering for any harness: `SteeringMixin` reads the spec, attaches the hooks and records what was done."""

import hashlib
import inspect
import json
import logging
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from lmms_steer._util.hashing import file_sha256
from lmms_steer.errors import UserError
from lmms_steer.extraction.first_use import extract_missing
from lmms_steer.harness.arguments import check_keys, with_stored
from lmms_steer.harness.command_line import end_command_line
from lmms_steer.harness.presets import expand_preset
from lmms_steer.models.answer_bias import AnswerBias
from lmms_steer.models.budget_alpha import with_budget_alpha
from lmms_steer.models.contrasts import ContrastSettings, contrasts
from lmms_steer.models.divergence import DivergenceMeter
from lmms_steer.models.own_prompts import sees_images
from lmms_steer.models.prompts import PromptFormat, prompt_formats
from lmms_steer.models.residual_norms import with_residual_norms
from lmms_steer.steering.anatomy import unwrap
from lmms_steer.steering.budget import take_budget
from lmms_steer.steering.facts import facts_of_config
from lmms_steer.steering.hooks import Attachment, attach, is_steered
from lmms_steer.steering.intervention import FIELDS
from lmms_steer.steering.placeholders import placeholders
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.resolved import ResolvedSpec
from lmms_steer.steering.row_vectors import refuse_row_vectors
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.steering.support import check_config
from lmms_steer.vectors.backbones import checkpoint
from lmms_steer.vectors.weights import commit_of, model_source, recorded_sha256

logger = logging.getLogger(__name__)

FROM_HARNESS = ("batch_size", "max_batch_size", "device")
"""Arguments that lmms-eval and lm-eval add to those of every model."""
_SETTINGS = (".json", ".jinja", ".model", ".txt")
"""Endings of a checkpoint's files, besides its weights, that the answers depend on."""
_PACKAGES = ("lmms-steer", "lmms-eval", "transformers", "torch")
"""Packages whose versions a results file names, and to which a cache of answers belongs."""


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
    _checked_model: Any = None
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
        return tuple(dict.fromkeys(("preset", "steering", *FIELDS, *FROM_HARNESS, *named)))

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
        keys, self.budget = take_budget(with_stored(given))
        self.spec = SteeringSpec.from_args(keys)
        refuse_row_vectors(self.spec, self.per_question)

    def resolve_for(self, config: Any, rank: int = 0, revision: str | None = None) -> None:
        """Find the vectors, extract missing ones, fill in layer, alpha and tokens, and log what was done.

        Args:
            config: the model's config.
            rank: the process; only rank 0 logs.
            revision: of a Hub id, as the user named it.

        Raises:
            UserError: if the spec or one of its vectors is wrong.
        """
        check_config(config, self.pretrained)
        self.commit = commit_of(self.pretrained, revision)
        for line in extract_missing(self.spec, self.pretrained):
            logger.info(line)
        self.resolved = resolve(self.spec, facts_of_config(config, self.pretrained, revision=self.commit))
        if rank == 0:
            for line in self.resolved.notes:
                logger.info(line)
            for line in self.resolved.warnings:
                logger.warning(line)

    def attach_to(self, model: Any, processor: Any, prompt_format: PromptFormat | None = None) -> None:
        """Attach the hooks. Residual norms and the alpha of a KL budget are read or measured first, where needed.

        Args:
            model: the loaded model.
            processor: its processor, or its tokenizer; None where neither is known.
            prompt_format: the format for measuring norms; by default the one that matches the processor.

        Raises:
            UserError: as `lmms_steer.steering.hooks.attach`; also where something must be measured with images and
                only a tokenizer is known.
        """
        if self.resolved.relative or self.budget is not None:
            self._check_measurable(model, processor)
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
        self._checked_model = unwrap(model)
        self._attach = partial(attach, model, self.resolved, special_ids, on_failure=end_command_line)
        self.attachment = self._attach()

    def _check_measurable(self, model: Any, processor: Any) -> None:
        """Refuse to measure a multimodal model on sentences: residual norms at images are others."""
        fits = self.text_only or sees_images(processor) or not placeholders(unwrap(model).config).image
        if processor is not None and fits:
            return
        what = "scale=relative" if self.resolved.relative else f"alpha=kl:{self.budget:g}"
        kept = "no processor" if processor is None else f"a {type(processor).__name__} and no processor"
        raise UserError(
            f"{what} is measured on images, but the model's wrapper keeps {kept}: give alpha as a number, with"
            " scale=raw or scale=token, or take --model steered_hf"
        )

    def start_evaluation(self) -> None:
        """Forget what belongs to an earlier evaluation: its failure, and how far its answers were.

        Raises:
            UserError: as `check_record`.
        """
        self.check_record()
        self.attachment.forget()
        if self.divergence is not None:
            self.divergence.reset()

    def end_evaluation(self) -> None:
        """Warn of an evaluation that the spec had no effect on."""
        if self._steered_nothing:
            logger.warning(
                "not one token was steered, so these are the answers of the unsteered model: no prompt has tokens that"
                " the spec steers, or its gate never let it act"
            )

    @property
    def _steered_nothing(self) -> bool:
        # another process may have had the prompts with such tokens
        return self.attachment.acted is False and getattr(self, "world_size", 1) == 1

    def check_record(self) -> None:
        """Check that the record of the steering says all that is done to the model.

        Raises:
            UserError: in a `steer` block, of which it would say nothing.
        """
        if self._checked_model is not None and is_steered(self._checked_model, self.attachment):
            raise UserError(
                "this model is evaluated inside of a `with steer(…)` block, of which the results would say nothing:"
                " leave the block, and give the model the spec (vector=…,layer=…,alpha=… among its arguments)"
            )

    @property
    def steering_record(self) -> dict[str, Any]:
        """The `steering` entry of the results file."""
        bias = {"answer_bias": self.answer_bias.words} if self.answer_bias else {}
        image = {"image": self.image} if self.image is not None else {}
        revision = {"revision": self.commit} if self.commit else {}
        contrast = {"contrast": self.contrast.record()} if self.contrast is not None else {}
        measured = self.divergence.record() if self.divergence is not None else {}
        divergence = {"divergence": measured} if measured else {}
        nothing = {"steered_nothing": True} if self._steered_nothing else {}
        return {
            "model": self.pretrained,
            **revision,
            **self.resolved.record(),
            **bias,
            **image,
            **contrast,
            **divergence,
            **nothing,
            "versions": _versions(),
        }

    @property
    def _own_code(self) -> list[str]:
        """Hashes of the code of a prompt format and a contrast that are not this package's."""
        prompt_format = getattr(self, "prompt_format", None)
        found = [
            prompt_formats.code(prompt_format.name) if prompt_format is not None else None,
            contrasts.code(self.contrast.contrast.name) if self.contrast is not None else None,
        ]
        return [code for code in found if code is not None]

    @property
    def cache_key(self) -> str:
        """A hash of the checkpoint, of vectors and biases that were read from files, of a user's code, and of versions.

        It is for response caches, whose answers must be those that the record describes. It reads the weights, unless
        they are large and were hashed before.
        """
        folder = Path(checkpoint(self.pretrained)).absolute()
        # a folder may have the name of a backbone, which `model_source` would take for that
        source = str(folder) if folder.is_dir() else self.pretrained
        weights = recorded_sha256(model_source(source, self.commit))
        # a tokenizer or a processor that changes in place gives other answers, too; a commit names those of a Hub id
        settings = sorted(path for path in folder.glob("*") if path.suffix in _SETTINGS)
        bias = self.answer_bias
        biases = sorted(zip(bias.ids, bias.bracketed, bias.words.values(), strict=True)) if bias is not None else []
        files = [(path.name, file_sha256(path)) for path in settings]
        key = [self.resolved.sha256, biases, weights, files, _versions(), *self._own_code]
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}
