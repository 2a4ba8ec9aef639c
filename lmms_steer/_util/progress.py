"""Progress bars: in a terminal, and in a notebook as a widget; none where the output is a file or a pipe."""

import sys
import warnings
from typing import TYPE_CHECKING, Any

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # without ipywidgets a notebook gets the terminal's bars, with a warning that asks for an update
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm import auto

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(*args: Any, shown: bool = True, **options: Any) -> "tqdm[Any]":
    """Return `tqdm(…)`, which shows nothing unless somebody watches.

    Args:
        args, options: as for `tqdm.auto.tqdm`.
        shown: False for a process of several that shows none.
    """
    # None: shown in a terminal; the output of a notebook's kernel is none
    disable = True if not shown else False if _in_notebook() else None
    make: Any = auto.tqdm
    bar: tqdm[Any] = make(*args, disable=disable, **options)
    return bar


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config
