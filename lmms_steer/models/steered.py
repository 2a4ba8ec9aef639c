"""Steering on top of the unsteered wrapper: the spec comes from `--model_args`, and stands in what is logged."""

import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any, Self

from lmms_eval.utils import simple_parse_args_string

from lmms_steer import lmms_eval_seams as seams
from lmms_steer.errors import UserError
from lmms_steer.extraction.first_use import extract_missing
from lmms_steer.intervention.hooks import attach
from lmms_steer.models.hf_vlm import HfVlm
from lmms_steer.resolve import ModelFacts, ResolvedSpec, resolve
from lmms_steer.spec import FIELDS, SteeringSpec


class SteeredVlm(HfVlm):
    """`HfVlm` with the keys of a spec among its arguments: none of them is the baseline.

    Args:
        steering: a YAML file with several interventions, instead of the single keys.
        vector, layer, alpha, tokens, phase, operation, control: one intervention (`lmms_steer.spec.Intervention`).
        **model_args: those of `HfVlm`.
    """

    def __init__(self, steering: str | None = None, **model_args: Any) -> None:
        given = {key: model_args.pop(key) for key in FIELDS if key in model_args}
        self.spec = spec_from_args(steering, given)
        self.resolved = ResolvedSpec()
        super().__init__(**model_args)
        self.handles = attach(self.model, self.resolved)

    @classmethod
    def known_args(cls) -> tuple[str, ...]:
        return ("steering", *FIELDS, *super().known_args())

    def prepare(self) -> None:
        text = self.config.get_text_config(decoder=True)
        facts = ModelFacts(self.pretrained, text.num_hidden_layers, text.hidden_size)
        for line in extract_missing(self.spec, self.pretrained):
            print(f"lmms-steer: {line}", file=sys.stderr)  # noqa: T201
        self.resolved = resolve(self.spec, facts)
        if self.rank == 0:
            for line in self.resolved.notes:
                print(f"lmms-steer: {line}", file=sys.stderr)  # noqa: T201
            for line in self.resolved.warnings:
                print(f"lmms-steer: WARNING: {line}", file=sys.stderr)  # noqa: T201

    @property
    def steering_record(self) -> dict[str, Any]:
        """What the results file says under `steering`."""
        bias = {self.tokenizer.decode(list(token)): value for token, value in (self.answer_bias or {}).items()}
        return {"model": self.pretrained, **self.resolved.record(), **({"answer_bias": bias} if bias else {})}

    @property
    def cache_key(self) -> str | None:
        """A hash of the vectors and biases that were read from files, for caches of answers; None for the baseline."""
        if not self.resolved.spec and not self.answer_bias:
            return None
        done = [self.resolved.sha256, sorted((self.answer_bias or {}).items())]
        return hashlib.sha256(json.dumps(done).encode()).hexdigest()

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> Self:
        """What lmms-eval calls. A user's mistake ends its command line with status 2 and our line as the last one."""
        try:
            lm = cls(**_merged(arg_string, additional_config or {}))
        except UserError as error:
            seams.end_command_line(error)
            raise
        seams.install(lm, arg_string)
        return lm


def spec_from_args(steering: str | None, given: Mapping[str, Any]) -> SteeringSpec:
    """The spec that model_args describe: a file, single keys, or nothing."""
    if steering is not None:
        if given:
            raise UserError(f"steering={steering} and {', '.join(given)}: give the file or the single keys, not both")
        return SteeringSpec.from_yaml(steering)
    return SteeringSpec.from_dicts([given] if given else [])


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
