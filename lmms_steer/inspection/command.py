"""`lmms-steer inspect`. The arguments are checked before torch is imported and the model is loaded."""

from collections.abc import Iterator
from pathlib import Path

from lmms_steer.harness.arguments import check_model_args
from lmms_steer.inspection.strengths import check_alphas
from lmms_steer.models.visuals import open_image
from lmms_steer.plots.style import check_figure_suffix

NEW_TOKENS = 24
"""How many tokens a text model writes, if the user does not say."""


def run_inspect(
    model: str,
    model_args: str,
    prompt: str,
    images: list[Path],
    picture: Path | None,
    alphas: tuple[float, ...] | None = None,
    new_tokens: int | None = None,
) -> Iterator[str]:
    """Show the effect of a model's spec on one prompt; yields lines for the user to read.

    Args:
        model, model_args: as for lmms-eval; with `steered_hf` also a text model.
        prompt: the question.
        images: the image files of the question.
        picture: a file for a figure, or None.
        alphas: strengths at which the model continues the prompt; None for 0, half, once and twice the spec's.
        new_tokens: how many tokens it writes at most. None: 24 for a text model, or if alphas are given; else 0.

    Raises:
        UserError: for an invalid argument.
    """
    if picture is not None:
        check_figure_suffix(picture)
    _, spec = check_model_args(model, model_args)
    if spec:
        check_alphas(spec, alphas)
    opened = [open_image(path) for path in images]
    # these import torch
    from lmms_steer.harness.steered_text import create_any_model
    from lmms_steer.inspection.prompt import inspect_prompt, inspection_lines

    lm = create_any_model(model, model_args)
    if new_tokens is None:
        new_tokens = NEW_TOKENS if lm.text_only or alphas is not None else 0
    inspection = inspect_prompt(lm, opened, prompt, alphas, new_tokens)
    yield from inspection_lines(inspection)
    if picture is not None:
        from lmms_steer.inspection.prompt_figure import draw_inspection

        yield f"\n{draw_inspection(inspection, opened[0] if opened else None, picture)}"
