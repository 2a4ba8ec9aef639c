"""What all pictures have in common: drawn without a screen, saved by the file's suffix."""

from pathlib import Path
from typing import Any

from lmms_steer.errors import UserError


def pyplot_for(path: Path) -> Any:
    """matplotlib's pyplot without a screen.

    Raises:
        UserError: where the file's suffix is none of .png, .svg and .pdf.
    """
    check_figure_suffix(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def check_figure_suffix(path: Path) -> None:
    """
    Raises:
        UserError: where the file's suffix is none of .png, .svg and .pdf.
    """
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"{str(path)!r}: expected a file that ends in .png, .svg or .pdf")


def save_figure(figure: Any, path: Path) -> Path:
    """Write a figure and close it.

    Raises:
        UserError: for a file that cannot be written.
    """
    from matplotlib import pyplot

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=140)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        pyplot.close(figure)
    return path
