"""`lmms-steer inspect`. The arguments are checked before torch is imported and the model is loaded."""

from collections.abc import Iterator
from pathlib import Path

from lmms_steer.harness.arguments import check_model_args
from lmms_steer.models.visuals import open_image
from lmms_steer.plots.style import check_figure_suffix


def run_inspect(model: str, model_args: str, prompt: str, images: list[Path], picture: Path | None) -> Iterator[str]:
    """Show the effect of a model's spec on one prompt; yields lines for the user to read.

    Args:
        model, model_args: as for lmms-eval.
        prompt: the question.
        images: the image files of the question.
        picture: a file for a figure, or None.

    Raises:
        UserError: for an invalid argument.
    """
    if picture is not None:
        check_figure_suffix(picture)
    check_model_args(model, model_args)
    opened = [open_image(path) for path in images]
    # these import torch
    from lmms_steer.harness.steered import create_model
    from lmms_steer.inspection.prompt import inspect_prompt, inspection_lines

    inspection = inspect_prompt(create_model(model, model_args), opened, prompt)
    yield from inspection_lines(inspection)
    if picture is not None:
        from lmms_steer.inspection.prompt_figure import draw_inspection

        yield f"\n{draw_inspection(inspection, opened[0] if opened else None, picture)}"
