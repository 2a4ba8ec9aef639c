"""Steering on top of our own unsteered wrapper."""

from typing import Any

from lmms_steer.models.from_args import FromArgs
from lmms_steer.models.glance import STEERED_ARGS
from lmms_steer.models.hf_vlm import HfVlm


class SteeredVlm(FromArgs, HfVlm):
    """`--model steered_hf`: `HfVlm` with the keys of a spec among its arguments; none of them is the baseline.

    Args:
        **model_args: those of `HfCheckpoint`; `steering`, a YAML file with several interventions; or the keys of one
            intervention (`lmms_steer.spec.Intervention`).
    """

    def __init__(self, **model_args: Any) -> None:
        self.take_spec(model_args)
        super().__init__(**model_args)
        self.attach_to(self.model, self.processor)

    @classmethod
    def known_args(cls) -> tuple[str, ...]:
        return STEERED_ARGS

    def prepare(self) -> None:
        self.resolve_for(self.config, self.rank)
