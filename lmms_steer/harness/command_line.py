"""How lmms-eval's command line ends: it catches every exception and exits with status 0, which no run of ours may."""

import re
import sys
import traceback
from difflib import get_close_matches
from types import ModuleType
from typing import Any, NoReturn

from lmms_steer.errors import UserError, first_line
from lmms_steer.harness.arguments import SPELLING_CUTOFF
from lmms_steer.harness.names import MODELS, steered_names_on_disk, wrapper_of
from lmms_steer.harness.task_files import check_task

_MODULE = "lmms_eval.__main__"


def is_command_line() -> bool:
    """Whether lmms-eval runs as a command in this process, rather than as a library."""
    return _MODULE in sys.modules


def end_command_line(error: UserError) -> None:
    """Print the error and exit with status 2 if lmms-eval runs as a command; return if it is used as a library."""
    if is_command_line():
        sys.stdout.flush()
        print(f"lmms-steer: {error}", file=sys.stderr, flush=True)  # noqa: T201
        raise SystemExit(2) from error


def end_failed_runs(model: object) -> None:
    """Make the command line end when a run of one of our models fails. Does nothing when lmms-eval is a library.

    A misspelt name of one of them ends it at once: lmms-eval would list hundreds of names three times.

    Args:
        model: the model of the run that begins; a config file may list runs of several.
    """
    module: Any = sys.modules.get(_MODULE)
    if module is not None:
        if unknown := _misspelt(str(model)):
            end_command_line(unknown)
        module.traceback = _EndingTraceback(traceback.__name__) if is_ours(model) else traceback


def own_option_error(error: BaseException | None) -> UserError | None:
    """The error of an option that lmms-eval's command line itself refused, such as `--limit -3`; None for any other."""
    if not isinstance(error, ValueError):
        return None
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or last.tb_frame.f_globals.get("__name__") != _MODULE:
        return None
    if missing := re.match(r"Tasks not found: ([^,]+?)(?:, .*)?\. Try ", str(error)):
        try:
            check_task(missing[1])
        except UserError as unknown:
            return unknown
    return UserError(f"lmms-eval: {first_line(error)}")


def is_ours(model: object) -> bool:
    """Whether `--model` names one of this package's models, steered wrappers of lmms-eval's included."""
    name = str(model)
    return name in MODELS or wrapper_of(name) is not None


def _misspelt(model: str) -> UserError | None:
    """The error for a name that is like those of our models and that no model has; None for any other name."""
    models = sys.modules.get("lmms_eval.models")
    if is_ours(model) or models is None or model in models.list_available_models(include_aliases=True):
        return None
    names = sorted({*MODELS, *steered_names_on_disk()})
    nearest = get_close_matches(model, names, n=1, cutoff=0.4 if model.startswith("steered") else SPELLING_CUTOFF)
    if not nearest:
        return None
    return UserError(f"unknown model {model!r}: did you mean {nearest[0]!r}? lmms-eval models lists all")


class _EndingTraceback(ModuleType):
    """Stands in for the module `traceback` in lmms-eval's command line, whose only handler prints the exception."""

    @staticmethod
    def print_exc() -> NoReturn:
        """Print the exception that is being handled and exit: with one line and status 2 for a user's mistake."""
        error = sys.exception()
        mistake = error if isinstance(error, UserError) else own_option_error(error)
        if mistake is not None:
            end_command_line(mistake)
        traceback.print_exc()
        raise SystemExit(1)
