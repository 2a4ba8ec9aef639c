"""What makes a wrapper a steered one, whatever it wraps: the spec in its arguments, the hooks, what is logged.

How lmms-eval makes a steered model from its command line.

Steering on top of our own unsteered wrapper.

Families with a prompt format or a checkpoint of their own: a format is data, nothing else differs.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Self

from lmms_eval.utils import simple_parse_args_string

from lmms_steer._util.logging import print_notes
from lmms_steer.errors import UserError
from lmms_steer.extraction.first_use import extract_missing
from lmms_steer.harness import patches
from lmms_steer.harness.arguments import STEERED_MODEL_ARGS, check_model
from lmms_steer.harness.plugin import MODELS
from lmms_steer.models.answer_bias import AnswerBias
from lmms_steer.models.prompts import PromptFormat, chat_template, paligemma_prefix
from lmms_steer.models.residual_norms import with_residual_norms
from lmms_steer.models.vlm import HfVlm
from lmms_steer.steering.hooks import attach
from lmms_steer.steering.intervention import FIELDS
from lmms_steer.steering.resolve import ModelFacts, ResolvedSpec, resolve
from lmms_steer.steering.spec import SteeringSpec

logger = logging.getLogger(__name__)


class SteeringMixin:
    """For a subclass of a harness's model class to inherit from first.

    Attributes:
        pretrained: the checkpoint as the user named it.
        spec: what the user said.
        resolved: what is done.
        handles: of the attached hooks.
    """

    pretrained: str
    spec: SteeringSpec = SteeringSpec()
    resolved: ResolvedSpec = ResolvedSpec()
    handles: list[Any]
    answer_bias: AnswerBias | None = None
    response_cache_in_use: bool = False

    def take_spec(self, model_args: dict[str, Any]) -> None:
        """Take the keys of a spec out of the arguments.

        Raises:
            UserError: for a spec that cannot be read.
        """
        self.spec = SteeringSpec.from_args({k: model_args.pop(k) for k in ("steering", *FIELDS) if k in model_args})

    def resolve_for(self, config: Any, rank: int = 0) -> None:
        """Find the vectors, extract those that no store has, fill in what is unsaid, and say so.

        Raises:
            UserError: for whatever is wrong with the spec or its vectors.
        """
        text = config.get_text_config(decoder=True)
        for line in extract_missing(self.spec, self.pretrained):
            logger.info(line)
        self.resolved = resolve(self.spec, ModelFacts(self.pretrained, text.num_hidden_layers, text.hidden_size))
        if rank == 0:
            for line in self.resolved.notes:
                logger.info(line)
            for line in self.resolved.warnings:
                logger.warning(line)

    def attach_to(self, model: Any, processor: Any) -> None:
        """Attach the hooks; where a strength is relative, measure the residual's norms first, or read them.

        Raises:
            UserError: as `attach`.
        """
        self.resolved = with_residual_norms(self.resolved, model, processor, self.pretrained)
        tokenizer = getattr(processor, "tokenizer", processor)
        self.handles = attach(model, self.resolved, getattr(tokenizer, "all_special_ids", ()))

    @property
    def steering_record(self) -> dict[str, Any]:
        """What the results file says under `steering`."""
        bias = {"answer_bias": self.answer_bias.words} if self.answer_bias else {}
        return {"model": self.pretrained, **self.resolved.record(), **bias}

    @property
    def cache_key(self) -> str | None:
        """A hash of the vectors and biases that were read from files, for caches of answers; None for the baseline."""
        if not self.resolved.spec and not self.answer_bias:
            return None
        held = self.answer_bias
        bias = sorted(zip(held.ids, held.words.values(), strict=True)) if held is not None else []
        done = [self.resolved.sha256, bias]
        return hashlib.sha256(json.dumps(done).encode()).hexdigest()


class LmmsEvalSteering(SteeringMixin):
    """`Steering` that lmms-eval can make."""

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> Self:
        """What lmms-eval calls. A user's mistake ends its command line with status 2 and our line as the last one."""
        if patches.is_command_line():
            print_notes()
        try:
            lm = cls(**_merged(arg_string, additional_config or {}))
        except UserError as error:
            patches.end_command_line(error)
            raise
        patches.install(lm, arg_string)
        return lm


def load_named_model(model: str, model_args: str, **more: Any) -> Any:
    """One of our own models, by its `--model` name and `--model_args`, outside of lmms-eval.

    Raises:
        UserError: for a model that is not ours, and for whatever is wrong with its arguments.
    """
    check_model(model)
    module, name = MODELS[model].rsplit(".", 1)
    return getattr(import_module(module), name)(**_merged(model_args, more))


def _merged(arg_string: str, additional: Mapping[str, Any]) -> dict[str, Any]:
    try:
        args: dict[str, Any] = simple_parse_args_string(arg_string)
    except ValueError as error:
        raise UserError(
            f"cannot read --model_args {arg_string!r}: expected key=value pairs with commas between"
        ) from error
    for key, value in additional.items():
        if value is None:
            continue
        # --batch_size has a default, so one in model_args is the one that the user said
        args.setdefault(key, value)
    return args


class SteeredVlm(LmmsEvalSteering, HfVlm):
    """`--model steered_hf`: `HfVlm` with the keys of a spec among its arguments; none of them is the baseline.

    Args:
        **model_args: those of `HfCheckpoint`; `steering`, a YAML file with several interventions; or the keys of one
            intervention (`lmms_steer.steering.spec.Intervention`).
    """

    def __init__(self, **model_args: Any) -> None:
        self.take_spec(model_args)
        super().__init__(**model_args)
        self.attach_to(self.model, self.processor)

    @classmethod
    def known_args(cls) -> tuple[str, ...]:
        return STEERED_MODEL_ARGS

    def prepare(self) -> None:
        self.resolve_for(self.config, self.rank)


class SteeredPaliGemma(SteeredVlm):
    """`--model steered_paligemma`: PaliGemma 1 and 2, which lmms-eval has no wrapper for."""

    default_pretrained = "google/paligemma2-3b-mix-448"

    def prompt_format(self) -> PromptFormat:
        return paligemma_prefix


class SteeredIdefics3(SteeredVlm):
    """`--model steered_idefics3`: Idefics3 and SmolVLM, which lmms-eval has no wrapper for.

    The marks between an image's pieces (`<row_1_col_2>`, …) count as text. `size` (longest edge) and
    `do_image_splitting` say into how many pieces an image is cut.
    """

    default_pretrained = "HuggingFaceM4/Idefics3-8B-Llama3"

    def prompt_format(self) -> PromptFormat:
        return chat_template
