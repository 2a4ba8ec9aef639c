"""Contrasts: decoding methods that change the distribution of the next token, and leave the hidden states alone.

They are what steering is compared with on a leaderboard. Notation: p is the model's distribution after the question
with its image, p' that of the contrasted branch, the same model after an input that hides the image or misleads; a is
`contrast_alpha`, b `contrast_beta`, and t counts the answer's tokens from 0.

A contrast is a function `(step, settings)` of a `ContrastStep` and a `ContrastSettings`. It returns scores
[rows, vocabulary], of which the softmax is the new distribution; minus infinity rules a token out.

Another package adds a contrast with `register_contrast`, in a module that an entry point of the group
`lmms_steer.contrasts` names. This module imports no torch, so that arguments can be checked without it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.models import CONTRAST_ARGS
from lmms_steer.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

ContrastFunction = Callable[["ContrastStep", "ContrastSettings"], "Tensor"]

BRANCHES = ("", "image", "text", "layers", "suffix")
"""What the contrasted branch differs in: `image` or `text`, which cost a second forward; `layers`, the logits of
earlier layers of the same forward. With "" and `suffix` there is none; `suffix` puts text after the question itself."""
IMAGES = ("noise", "blank", "absent")
"""What the contrasted branch is shown in an image's place."""
ALWAYS_YES = "Answer yes whenever possible."
"""Default text after the question in the control `yes_prompt`."""
MISLEADING = "Answer as somebody who is confused about what the image shows."
"""Default text before the question in ICD's contrasted branch."""
_RANGES = {"alpha": (0.0, 10.0), "beta": (0.0, 1.0), "decay": (0.0, 1.0)}
"""Numeric setting ▸ its smallest and largest value, unless the contrast narrows it."""


@dataclass(frozen=True, slots=True, eq=False)
class ContrastStep:
    """What a contrast knows when a token is chosen or scored.

    Attributes:
        logits: float32 [rows, vocabulary], the model's.
        contrasted: likewise, those of the contrasted branch; None for a contrast without one.
        place: int [rows], t: how many tokens of the answer precede this one.
        words: word ▸ the ids of the tokens that begin it, for the words that the contrast asks for.
    """

    logits: "Tensor"
    contrasted: "Tensor | None"
    place: "Tensor"
    words: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contrast:
    """A decoding method.

    Attributes:
        name: the value of `contrast=` in `--model_args`.
        description: one line, with the formula.
        function: as described at the top of this module.
        defaults: setting ▸ default, the settings that the contrast has: `alpha`, `beta`, `decay`, `image`, `text`,
            `layers` and `seed`, each `contrast_…` in `--model_args`.
        branch: one of `BRANCHES`.
        most: setting ▸ its largest value, where that is smaller than usual.
        neutral: the setting whose value 0 is the plain model; "" if there is none.
        control: whether it is a control for gains that are not due to sight.
        words: words whose first tokens the function needs.
    """

    name: str
    description: str
    function: ContrastFunction
    defaults: Mapping[str, float | str]
    branch: str = ""
    most: Mapping[str, float] = field(default_factory=dict)
    neutral: str = "alpha"
    control: bool = False
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContrastSettings:
    """A contrast with its settings; those that it does not have keep the values here.

    Attributes:
        contrast: the contrast.
        alpha, beta: a and b of its formula.
        decay: M3ID's lambda.
        image: one of `IMAGES`.
        text: of the contrast's own use, such as a misleading instruction.
        layers: `FIRST-LAST`, the decoder blocks that are read; "" for the default.
        seed: of the noise.
    """

    contrast: Contrast
    alpha: float = 0.0
    beta: float = 0.0
    decay: float = 0.0
    image: str = ""
    text: str = ""
    layers: str = ""
    seed: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether the settings leave the model's distribution as it is."""
        return bool(self.contrast.neutral) and getattr(self, self.contrast.neutral) == 0

    def record(self) -> dict[str, Any]:
        """The entry of a results file: the name and the contrast's own settings."""
        own = {name: getattr(self, name) for name in self.contrast.defaults}
        return {"name": self.contrast.name, **own, "control": self.contrast.control}


contrasts: Registry[Contrast] = Registry("contrast", "lmms_steer.contrasts")
"""Every known contrast by its name."""


def register_contrast(
    name: str,
    *,
    description: str,
    defaults: Mapping[str, float | str],
    branch: str = "",
    most: Mapping[str, float] | None = None,
    neutral: str = "alpha",
    control: bool = False,
    words: tuple[str, ...] = (),
) -> Callable[[ContrastFunction], ContrastFunction]:
    """Decorator that registers a function as a contrast and returns it unchanged; arguments as of `Contrast`.

    Raises:
        ValueError: for a name that is taken or not valid, an unknown setting, or a branch that does not exist.
    """
    unknown = [key for key in defaults if f"contrast_{key}" not in CONTRAST_ARGS]
    if unknown or branch not in BRANCHES or (neutral and neutral not in defaults):
        raise ValueError(f"contrast {name!r}: unknown setting or branch {[*unknown, branch, neutral]}")

    def register(function: ContrastFunction) -> ContrastFunction:
        entry = Contrast(name, description, function, defaults, branch, most or {}, neutral, control, words)
        contrasts.add(name, entry)
        return function

    return register


def read_contrast(args: Mapping[str, Any]) -> ContrastSettings | None:
    """Read the keys of a contrast from `--model_args`; None where there is none.

    Args:
        args: the keys `CONTRAST_ARGS` that were given.

    Raises:
        UserError: for an unknown contrast, a setting that it does not have, or a value out of range.
    """
    given = {key.removeprefix("contrast_"): value for key, value in args.items() if value is not None}
    if "contrast" not in given:
        if given:
            key, value = next(iter(given.items()))
            raise UserError(f"contrast_{key}={shorten(value)} without contrast=NAME: one of {', '.join(contrasts)}")
        return None
    contrast = contrasts.get(str(given.pop("contrast")))
    values: dict[str, Any] = dict(contrast.defaults)
    for name, value in given.items():
        if name not in contrast.defaults:
            own = ", ".join(f"contrast_{key}" for key in contrast.defaults) or "none"
            raise UserError(f"contrast_{name}={shorten(value)}: {contrast.name} has no such setting; it has {own}")
        values[name] = _read_value(contrast, name, value)
    return ContrastSettings(contrast, **values)


def _read_value(contrast: Contrast, name: str, value: object) -> float | str:
    if name in ("text", "layers"):
        return str(value)
    if name == "image":
        if value not in IMAGES:
            raise unknown_name("contrast_image", value, IMAGES)
        return str(value)
    low, high = _RANGES.get(name, (0.0, 2.0**63 - 1))
    high = contrast.most.get(name, high)
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    whole = name == "seed"
    if not low <= number <= high or (whole and number != int(number)):
        expected = "a whole number from 0 up" if whole else f"a number from {low:g} to {high:g}"
        raise UserError(f"contrast_{name}={shorten(value)}: {contrast.name} expects {expected}")
    return int(number) if whole else number


def plausible(logits: "Tensor", beta: float) -> "Tensor":
    """The plausibility mask, bool as `logits`: the tokens with p >= beta · max p (Li et al. 2023, arXiv 2210.15097)."""
    lowest = math.log(beta) if beta else -math.inf
    kept: Tensor = logits >= logits.max(-1, keepdim=True).values + lowest
    return kept


def _against_branch(step: ContrastStep, settings: ContrastSettings) -> "Tensor":
    assert step.contrasted is not None
    away = (1 + settings.alpha) * step.logits.log_softmax(-1) - settings.alpha * step.contrasted.log_softmax(-1)
    return away.where(plausible(step.logits, settings.beta), -math.inf)


@register_contrast(
    "vcd",
    description="(1 + a) log p - a log p' on tokens with p >= b max p; p' sees noise, grey or nothing for the image",
    defaults={"alpha": 1.0, "beta": 0.1, "image": "noise", "seed": 0},
    branch="image",
)
def vcd(step: ContrastStep, settings: ContrastSettings) -> "Tensor":
    """Visual contrastive decoding (Leng et al. 2023, arXiv 2311.16922, equations 3 and 4).

    `scores = (1 + a) log p - a log p'` where `p >= b max p`, else minus infinity.
    """
    return _against_branch(step, settings)


@register_contrast(
    "icd",
    description="(1 + a) log p - a log p' on tokens with p >= b max p; p' reads a misleading text before the question",
    defaults={"alpha": 1.0, "beta": 0.1, "text": MISLEADING},
    branch="text",
)
def icd(step: ContrastStep, settings: ContrastSettings) -> "Tensor":
    """Instruction contrastive decoding (Wang et al. 2024, arXiv 2403.18715): as `vcd`, with the image in both branches.

    The contrasted branch reads `contrast_text` before the question.
    """
    return _against_branch(step, settings)


@register_contrast(
    "m3id",
    description="log p + (e^(decay t) - 1) (log p - log p') where max p < a; p' sees nothing, grey or noise",
    defaults={"alpha": 0.3, "decay": 0.02, "image": "absent", "seed": 0},
    branch="image",
    most={"alpha": 1.0},
)
def m3id(step: ContrastStep, settings: ContrastSettings) -> "Tensor":
    """Multi-modal mutual-information decoding (Favero et al. 2024, arXiv 2403.14003).

    `scores = log p + w (log p - log p')`, with `w = e^(decay t) - 1` where `max p < a`, and 0 elsewhere. The weight
    grows with the answer and is 0 at its first token, so an answer of one token is the plain model's.
    """
    assert step.contrasted is not None
    plain, contrasted = step.logits.log_softmax(-1), step.contrasted.log_softmax(-1)
    unsure = plain.max(-1).values < math.log(settings.alpha)
    weight = (settings.decay * step.place.to(plain)).expm1() * unsure
    return plain + weight.unsqueeze(-1) * (plain - contrasted)


@register_contrast(
    "sla",
    description="(1 - a) logits + a mean of the logits of earlier layers, without the final norm: VISTA's second half",
    defaults={"alpha": 0.3, "layers": ""},
    branch="layers",
    most={"alpha": 1.0},
)
def sla(step: ContrastStep, settings: ContrastSettings) -> "Tensor":
    """Self-logits augmentation of VISTA (Li et al. 2025, arXiv 2502.03628, section 2.4), as its code has it.

    `scores = (1 - a) z + a mean over the layers of head(h)`, with the output head on the blocks' outputs h.
    """
    assert step.contrasted is not None
    return (1 - settings.alpha) * step.logits + settings.alpha * step.contrasted


@register_contrast(
    "yes_prompt",
    description="control: the question, then a text that asks for yes",
    defaults={"text": ALWAYS_YES},
    branch="suffix",
    neutral="",
    control=True,
)
def yes_prompt(step: ContrastStep, settings: ContrastSettings) -> "Tensor":  # noqa: ARG001
    """Control of Yin et al. 2025 (arXiv 2504.10020): the prompt alone moves answers to yes."""
    return step.logits


@register_contrast(
    "yes_bias",
    description="control: yes where p(yes) + p(no) > b and they differ by less than a, at the answer's first token",
    defaults={"alpha": 0.5, "beta": 0.2},
    most={"alpha": 1.0},
    control=True,
    words=("yes", "no"),
)
def yes_bias(step: ContrastStep, settings: ContrastSettings) -> "Tensor":
    """Control of Yin et al. 2025 (arXiv 2504.10020): near ties become yes.

    Where `p(yes) + p(no) > b` and `|p(yes) - p(no)| < a`, the likeliest token of yes and the likeliest token of all
    exchange their logits, so that the distribution stays one.
    """
    import torch

    yes, no = (torch.tensor(step.words[word], device=step.logits.device) for word in ("yes", "no"))
    p = step.logits.softmax(-1)
    p_yes, p_no = p[:, yes].sum(-1), p[:, no].sum(-1)
    tied = (step.place == 0) & (p_yes + p_no > settings.beta) & ((p_yes - p_no).abs() < settings.alpha)
    rows = torch.arange(len(p), device=p.device)
    top, likeliest_yes = step.logits.argmax(-1), yes[step.logits[:, yes].argmax(-1)]
    exchanged = step.logits.clone()
    exchanged[rows, likeliest_yes] = step.logits[rows, top]
    exchanged[rows, top] = step.logits[rows, likeliest_yes]
    return exchanged.where(tied.unsqueeze(-1), step.logits)


@register_contrast(
    "plausibility",
    description="control: only tokens with p >= b max p, the mask of vcd and icd without their contrast",
    defaults={"beta": 0.2},
    neutral="beta",
    control=True,
)
def plausibility(step: ContrastStep, settings: ContrastSettings) -> "Tensor":
    """Control of Yin et al. 2025 (arXiv 2504.10020): the mask alone, which no greedy answer depends on."""
    return step.logits.where(plausible(step.logits, settings.beta), -math.inf)
