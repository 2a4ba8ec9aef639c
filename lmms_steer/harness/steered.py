"""Steered models for lmms-eval.

`LmmsEvalSteering` makes a steered class usable from lmms-eval's command line. The classes below it are the models that
this package ships: `HfVlm` with steering, and model families with a default checkpoint and prompt format.
"""

import gc
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any, Self

import torch
from lmms_eval.utils import handle_arg_string

from lmms_steer._util.logging import print_notes
from lmms_steer.errors import UserError, unknown_name
from lmms_steer.harness import patches
from lmms_steer.harness.arguments import (
    STEERED_MODEL_ARGS,
    check_model,
    is_quoted,
    join_model_args,
    merge_args,
    split_args,
    unquote,
)
from lmms_steer.harness.command_line import end_command_line, is_command_line
from lmms_steer.harness.names import MODELS
from lmms_steer.harness.run_checks import chat_template_error
from lmms_steer.harness.steering_mixin import FROM_HARNESS, SteeringMixin
from lmms_steer.models import OUR_OWN_ARGS
from lmms_steer.models.image_directions import image_directions
from lmms_steer.models.visuals import Visual
from lmms_steer.models.vlm import HfVlm
from lmms_steer.steering.row_vectors import row_layers, row_vectors
from lmms_steer.steering.sites import sites


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
    def create_from_arg_string(
        cls, arg_string: str | Mapping[str, object], additional_config: Mapping[str, Any] | None = None
    ) -> Self:
        """Create the model, as lmms-eval does. Its `simple_evaluate` also passes on a mapping.

        A `UserError` ends lmms-eval's command line with status 2 and one line that says what is wrong.
        """
        if is_command_line():
            print_notes()
        try:
            line = join_model_args(arg_string)
            lm = cls(**merge_args(read_model_args(line), additional_config or {}))
        except UserError as error:
            end_command_line(error)
            raise
        patches.remember(lm, line)
        return lm

    def clean(self) -> None:
        """Free what is unused, at the end of an evaluation; lmms-eval's own also deletes the model.

        The caller may evaluate the object again. Nothing is lost by it, because the hooks keep the model in memory.
        """
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def take_spec(self, model_args: dict[str, Any]) -> None:
        """As `SteeringMixin.take_spec`; prepares lmms-eval for the model, which may be given to it as an object.

        Raises:
            UserError: also for an argument that the model does not have; some wrappers of lmms-eval ignore such.
        """
        patches.install()
        super().take_spec(model_args)
        for name in model_args:
            if name not in FROM_HARNESS and not self.takes(name):
                raise unknown_name("key", name, self.known_args(), "in --model_args")

    @classmethod
    def takes(cls, name: str) -> bool:
        """Whether `--model_args` may contain an argument; wrappers may read some from their `**kwargs`, by name.

        What this package's models alone do must be declared: `"image"` in a wrapper's code is something else.
        """
        if name in OUR_OWN_ARGS:
            return name in cls.known_args()
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
    return getattr(import_module(module), name)(**merge_args(read_model_args(model_args), more))


def read_model_args(arg_string: str) -> dict[str, Any]:
    """Read `--model_args` as lmms-eval does.

    Raises:
        UserError: for text that is not a list of key=value pairs, or a key that is given twice.
    """
    given = split_args(arg_string, "--model_args")
    return {name: unquote(text) if is_quoted(text) else handle_arg_string(text) for name, text in given.items()}


class SteeredVlm(LmmsEvalSteering, HfVlm):
    """`--model steered_hf`: `HfVlm` with steering. Without the keys of a spec it is the baseline.

    Args:
        **model_args: those of `HfCheckpoint`, and either `steering`, a YAML file of interventions or a `SteeringSpec`,
            or the fields of one intervention (`lmms_steer.steering.intervention.Intervention`), whose `vector` may also
            be `SteeringVectors`.
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
        """The block in which the model has no hooks; inside of another such block, nothing changes."""
        before, was_steered = self.attachment, bool(self.attachment)
        before.remove()
        try:
            yield
        finally:
            if was_steered:
                self.attachment = self._attach()
                self.attachment.follow(before)

    def prepare(self) -> None:
        """Resolve the spec before the weights are read, so that mistakes are found early."""
        self.resolve_for(self.config, self.rank, self.revision)


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
