"""Keys of a spec that all cells of a search share, as `--spec` gives them. This module imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from lmms_steer.errors import UserError, shorten
from lmms_steer.harness.arguments import check_keys, split_args, unquote
from lmms_steer.steering.intervention import FIELDS, Intervention
from lmms_steer.steering.sites import DEFAULT_SITE, sites

_SEARCHED = ("vector", "layer", "layers", "alpha", "tokens", "control")
"""Keys that a search sets itself."""
_IMAGES_END_HERE = (DEFAULT_SITE, "mlp", "attention")
"""Sites of the last layer at which image tokens cannot reach the answer any more."""
_PREFIX = "vector=v"


@dataclass(frozen=True, slots=True)
class FixedKeys:
    """The keys that all cells share.

    Attributes:
        intervention: with these keys; its vector is a stand-in, and it has no layer, alpha and tokens.
    """

    intervention: Intervention = Intervention("v")

    def __str__(self) -> str:
        return str(self.intervention).removeprefix(_PREFIX).removeprefix(",")

    def __bool__(self) -> bool:
        return bool(str(self))

    @classmethod
    def parse(cls, text: str) -> "FixedKeys":
        """Read `site=mlp,scale=token`.

        Raises:
            UserError: for a key that a search sets itself, an unknown key, or a wrong value.
        """
        keys = {name: unquote(value) for name, value in split_args(text, "--spec").items()}
        for name in _SEARCHED:
            if name in keys:
                raise UserError(
                    f"--spec {name}={shorten(keys[name])}: vectors, single layers, alphas and tokens are what is"
                    " searched, so they have options of their own"
                )
        if "preset" in keys:
            method = shorten(keys["preset"]).partition(":")[0]
            raise UserError(
                f"--spec preset={shorten(keys['preset'])}: presets are for --model_args; here write out the keys that"
                f" `lmms-steer presets {method}` prints, without {', '.join(_SEARCHED[:-1])}, which are searched"
            )
        check_keys(keys, [name for name in FIELDS if name not in _SEARCHED], option="--spec")
        return cls(Intervention("v", **keys))  # type: ignore[arg-type]

    @property
    def in_tower(self) -> bool:
        """Whether the layers are those of the vision tower."""
        return sites.get(self.intervention.site).tower == "vision"

    def why_hooks(self, answers_run: bool) -> str:
        """Why cells cannot be replayed; empty where they can.

        Args:
            answers_run: whether the model runs on tokens of answers, generated or given.
        """
        if self.in_tower:
            return f"site={self.intervention.site} lies before the layers that a replay runs"
        if answers_run and self.intervention.phase != "prefill":
            return f"phase={self.intervention.phase} steers answers, and a replay steers prompts"
        return ""

    def last_useless_for_images(self, n_layers: int) -> int | None:
        """The layer where steering image tokens cannot change an answer; None where there is none."""
        return n_layers - 1 if self.intervention.site in _IMAGES_END_HERE else None

    def check(self, targets: Sequence[str], filtering: str, score: str, keep: bool) -> None:
        """Check that a search can have these keys.

        Args:
            targets: the token targets.
            filtering: the name of a strategy that drops cells before it measures them; empty for others.
            score: of the options.
            keep: whether a winner is to be saved.

        Raises:
            UserError: for what cannot be had together.
        """
        if not self:
            return
        if filtering:
            raise UserError(
                f"--strategy {filtering}: it drops cells by what a vector at the layer's output would do: with"
                " --spec take grid, race or tpe"
            )
        if keep:
            raise UserError("--keep saves layer, alpha and tokens alone: with --spec, evaluate choice.yaml instead")
        if score == "letters" and self.intervention.phase == "decode":
            raise UserError("--spec phase=decode: with --score letters no token is generated, so nothing is steered")
        if self.in_tower and len(targets) > 1:
            raise UserError(
                f"--tokens {','.join(targets)}: site={self.intervention.site} steers every patch, so give one of them"
            )
        for tokens in targets:
            try:
                Intervention("v", tokens=tokens, **self.keys)  # type: ignore[arg-type]
            except UserError as error:
                raise UserError(f"--tokens {','.join(targets)} with --spec {self}: {error}") from error

    @property
    def keys(self) -> dict[str, object]:
        """The keys with their values, without those at their defaults."""
        defaults = Intervention("v")
        pairs = ((name, getattr(self.intervention, name)) for name in FIELDS if name not in _SEARCHED)
        return {name: value for name, value in pairs if value != getattr(defaults, name)}
