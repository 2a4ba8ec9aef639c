"""The places where lmms-eval 0.7.3 leaves a plugin no say, and what is hung in there instead.

Each wraps one public function, does nothing for models that are not ours, and is put in once:

* `TaskManager.initialize_tasks`: our task folder is indexed without `--include_path`;
* `TaskManager.load_task_or_group`: data that is not there ends the command as below;
* `evaluator.evaluate`: the results say, under `steering`, what was done to the model;
* `GeneralConfigTracker._get_model_name`: the output folder names the spec, so that two runs stand apart;
* `ResponseCache.create`: the cache's key holds a hash of vectors and answer bias: changed files give no stale answers;
* `cli_evaluate` catches every `Exception` and exits with 0: a user's mistake leaves as `SystemExit(2)`;
* the process group that torchrun's evaluator opens stays open: `atexit` leaves it.

What is logged of every model's answers is in lmms_eval_logging.py.
"""

import atexit
import functools
import sys
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakValueDictionary

from lmms_steer.errors import UserError
from lmms_steer.lmms_eval_logging import install_logging
from lmms_steer.resolved import ResolvedSpec
from lmms_steer.task_files import tasks_dir
from lmms_steer.wrapping import wrap


class SteeredModel(Protocol):
    """What the seams ask of a model."""

    resolved: ResolvedSpec
    response_cache_in_use: bool

    @property
    def steering_record(self) -> dict[str, Any]: ...

    @property
    def cache_key(self) -> str | None: ...


_by_args: WeakValueDictionary[str, SteeredModel] = WeakValueDictionary()
"""`--model_args` as typed ▸ the model that was made from it last: lmms-eval hands no more than the string around."""


def index_our_tasks() -> None:
    """Let every `TaskManager` know our tasks."""
    from lmms_eval.tasks import TaskManager

    def indexing(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def initialize_tasks(self: Any, include_path: Any = None, include_defaults: bool = True) -> Any:
            paths = [include_path] if isinstance(include_path, str) else list(include_path or [])
            ours = [] if tasks_dir() in paths else [tasks_dir()]
            return original(self, include_path=[*paths, *ours], include_defaults=include_defaults)

        return initialize_tasks

    def ending(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def load_task_or_group(self: Any, *args: Any, **kwargs: Any) -> Any:
            install_logging()
            try:
                return original(self, *args, **kwargs)
            except UserError as error:
                end_command_line(error)
                raise

        return load_task_or_group

    wrap(TaskManager, "initialize_tasks", indexing)
    wrap(TaskManager, "load_task_or_group", ending)


def install(lm: SteeredModel, arg_string: str) -> None:
    """Called for every model of ours that lmms-eval makes from its arguments."""
    from lmms_eval import evaluator
    from lmms_eval.caching.response_cache import ResponseCache
    from lmms_eval.loggers.evaluation_tracker import GeneralConfigTracker

    _by_args[arg_string] = lm
    lm.response_cache_in_use = False
    install_logging()
    wrap(evaluator, "evaluate", _with_record)
    wrap(GeneralConfigTracker, "_get_model_name", _with_tag, kind=staticmethod)
    wrap(ResponseCache, "create", _with_hash, kind=classmethod)
    # not earlier: the evaluator opens the group after the model is made
    atexit.register(_leave_process_group)


def end_command_line(error: UserError) -> None:
    """Print the line and leave with status 2, if lmms-eval runs as a command; return if it is used as a library."""
    if "lmms_eval.__main__" in sys.modules:
        sys.stdout.flush()
        print(f"lmms-steer: {error}", file=sys.stderr, flush=True)  # noqa: T201
        raise SystemExit(2) from error


def _leave_process_group() -> None:
    """Close it while Python still stands: threads of an open one can abort the exit of a run whose results are out."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _with_record(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def evaluate(lm: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            results = original(lm, *args, **kwargs)
        except UserError as error:
            end_command_line(error)
            raise
        if results is not None and hasattr(lm, "steering_record"):
            results["steering"] = lm.steering_record
        return results

    return evaluate


def _with_tag(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _get_model_name(model_args: str) -> str:
        lm = _by_args.get(model_args)
        if lm is None:
            return str(original(model_args))
        name: str = lm.steering_record["model"]
        return f"{name}__{lm.resolved.tag}" if lm.resolved.spec else name

    return _get_model_name


def _with_hash(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def create(cls: Any, cache_root: str, *, model_args: Any = "", **kwargs: Any) -> Any:
        lm = _by_args.get(model_args) if isinstance(model_args, str) else None
        if lm is not None:
            lm.response_cache_in_use = True
            if lm.cache_key is not None:
                model_args = f"{model_args},steering_sha256={lm.cache_key}"
        return original(cls, cache_root, model_args=model_args, **kwargs)

    return create
