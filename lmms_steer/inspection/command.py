"""`lmms_steer.inspect` and `lmms-steer inspect`. The arguments are checked before the model is loaded."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from lmms_steer.harness.arguments import check_model_args, join_model_args
from lmms_steer.inspection.strengths import check_alphas
from lmms_steer.models.visuals import open_visual
from lmms_steer.plots.style import check_figure_suffix

if TYPE_CHECKING:
    # it imports torch
    from lmms_steer.inspection.prompt import PromptInspection

NEW_TOKENS = 24
"""How many tokens a text model writes, if the user does not say."""


def inspect(
    prompt: str,
    model_args: str | Mapping[str, object],
    model: str = "steered_hf",
    image: str | Path | Image.Image | Sequence[str | Path | Image.Image] = (),
    alphas: Sequence[float] | None = None,
    new_tokens: int | None = None,
) -> "PromptInspection":
    """Look at what a spec does to one prompt, as `lmms-steer inspect` does.

    Args:
        prompt: the question.
        model_args: as for lmms-eval, in one line or as a mapping: `pretrained`, and the keys of a spec. In a mapping,
            `vector` may be vectors, and `steering` a `SteeringSpec`.
        model: the model's wrapper; `steered_hf` also takes a text model.
        image: the image, video or sound file of the question, or several; images also as PIL has them.
        alphas: strengths at which the model continues the prompt; default for a text model: 0, half, once and twice
            the spec's.
        new_tokens: how many tokens it writes at most. Default: 24 for a text model, or if alphas are given; else 0.

    Raises:
        UserError: for an invalid argument, before the model is loaded where that is possible.
    """
    arguments = join_model_args(model_args)
    _, spec = check_model_args(model, arguments)
    if spec:
        check_alphas(spec, alphas)
    given = [image] if isinstance(image, str | Path | Image.Image) else image
    opened = [open_visual(one if isinstance(one, Image.Image) else Path(one)) for one in given]
    # these import torch
    from lmms_steer.harness.steered_text import create_any_model
    from lmms_steer.inspection.prompt import inspect_prompt

    lm = create_any_model(model, arguments)
    if new_tokens is None:
        new_tokens = NEW_TOKENS if lm.text_only or alphas is not None else 0
    return inspect_prompt(lm, opened, prompt, alphas, new_tokens)


def run_inspect(
    model: str,
    model_args: str,
    prompt: str,
    images: list[Path],
    picture: Path | None,
    alphas: Sequence[float] | None = None,
    new_tokens: int | None = None,
) -> Iterator[str]:
    """Show the effect of a model's spec on one prompt; yields lines for the user to read.

    Args:
        model, model_args, prompt, images, alphas, new_tokens: as for `inspect`.
        picture: a file for a figure, or None.

    Raises:
        UserError: for an invalid argument.
    """
    if picture is not None:
        check_figure_suffix(picture)
    inspection = inspect(prompt, model_args, model, images, alphas, new_tokens)
    from lmms_steer.inspection.prompt import inspection_lines

    yield from inspection_lines(inspection)
    if picture is not None:
        from lmms_steer.inspection.prompt_figure import draw_inspection

        yield f"\n{draw_inspection(inspection, picture)}"
