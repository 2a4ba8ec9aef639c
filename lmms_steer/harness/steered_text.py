"""A steered text model for `inspect`, which needs no harness: lm-eval's own is in `lmms_steer.harness.lm_eval`."""

from typing import Any

from transformers import AutoConfig

from lmms_steer.harness.arguments import check_model
from lmms_steer.harness.steered import SteeredVlm, create_model, read_model_args
from lmms_steer.harness.steering_mixin import SteeringMixin
from lmms_steer.models.loading import is_text_config, load_or_refuse
from lmms_steer.models.text import HfText
from lmms_steer.vectors.backbones import checkpoint


class SteeredText(SteeringMixin, HfText):
    """`HfText` with steering. Without the keys of a spec it is the baseline.

    Args:
        **model_args: those of `HfText`, and those of a spec.
    """

    text_only = True

    def __init__(self, **model_args: Any) -> None:
        self.take_spec(model_args)
        super().__init__(**model_args)
        self.attach_to(self.model, self.tokenizer)

    def prepare(self) -> None:
        """Resolve the spec before the weights are read, so that mistakes are found early."""
        self.resolve_for(self.config, revision=self.revision)


def create_any_model(model: str, model_args: str) -> SteeredVlm | SteeredText:
    """A steered model by its `--model` name and `--model_args`: `steered_hf` may be a text model here.

    Raises:
        UserError: for another model, or wrong arguments.
    """
    check_model(model)
    args = read_model_args(model_args)
    if model == "steered_hf" and "pretrained" in args:
        options = {key: args[key] for key in ("revision", "trust_remote_code") if key in args}
        name = str(args["pretrained"])
        if is_text_config(load_or_refuse(name, AutoConfig.from_pretrained, checkpoint(name), **options)):
            return SteeredText(**args)
    lm: SteeredVlm = create_model(model, model_args)
    return lm
