"""`lmms-steer inspect`: what is typed is looked at before torch and the model are."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from lmms_steer.errors import UserError, one_line
from lmms_steer.figures.canvas import check_suffix
from lmms_steer.models.glance import glance
from lmms_steer.models.visuals import visuals_of


def run(model: str, model_args: str, prompt: str, images: list[Path], picture: Path | None) -> Iterator[str]:
    """Yields what the user should read.

    Args:
        model, model_args: as for lmms-eval.
        prompt: the question.
        images: files of pictures.
        picture: a file to draw into.

    Raises:
        UserError: for whatever is wrong with one of them.
    """
    if picture is not None:
        check_suffix(picture)
    glance(model, model_args)
    opened = open_images(images)
    from lmms_steer.inspection.tokens import inspect, lines
    from lmms_steer.models.from_args import model_named

    seen = inspect(model_named(model, model_args), opened, prompt)
    yield from lines(seen)
    if picture is not None:
        from lmms_steer.inspection.tokens_picture import draw

        yield f"\n{draw(seen, opened[0] if opened else None, picture)}"


def open_images(paths: list[Path]) -> list[Image.Image]:
    """The pictures, in RGB.

    Raises:
        UserError: for a file that is no picture.
    """
    opened = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                opened += visuals_of([picture], str(path))
        except OSError as error:
            raise UserError(f"cannot open the image {str(path)!r}: {one_line(error)}") from error
    return [picture for picture in opened if isinstance(picture, Image.Image)]
