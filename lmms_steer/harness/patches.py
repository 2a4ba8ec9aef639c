"""The places where lmms-eval 0.7.3 leaves a plugin no say, and what is hung in there instead.

Each wraps one public function, does nothing for models that are not ours, and is put in once:

* `TaskManager.initialize_tasks`: our task folder is indexed without `--include_path`;
* `TaskManager.load_task_or_group`: data that is not there ends the command as below;
* `evaluator.evaluate`: the results say, under `steering`, what was done to the model;
* `GeneralConfigTracker._get_model_name`: the output folder names the spec, so that two runs stand apart;
* `ResponseCache.create`: the cache's key holds a hash of vectors and answer bias: changed files give no stale answers;
* `cli_evaluate` catches every `Exception` and exits with 0: a user's mistake leaves as `SystemExit(2)`;
* the process group that torchrun's evaluator opens stays open: `atexit` leaves it.

What lmms-eval 0.7.3 logs of an evaluation, whatever its model, made fit for comparisons and for wandb.

* `evaluator._process_document_results`: a sample names the images that a model of ours was shown, by content
  (`images`), so that a comparison knows which questions share one, and says what its target's letter stands for
  (`choices`): lmms-eval does not write the document;
* `evaluator.evaluate`: metrics without a value go (`score: []` of our tasks would end wandb's logging);
* `EvaluationTracker.save_results_samples` strips the samples that `--wandb_log_samples` reads later: it gets copies;
* `WandbLogger.post_init`: versions are texts (wandb refuses a column of numbers and texts, which mixed tasks have);
* `WandbLogger._get_config`: the wandb run's config holds the record of the steering.
"""

import atexit
import functools
import sys
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakValueDictionary

from lmms_steer.errors import UserError
from lmms_steer.harness.task_files import tasks_dir
from lmms_steer.models.visuals import shown_images
from lmms_steer.scoring.choice import choice_text, choices_of
from lmms_steer.steering.resolve import ResolvedSpec

_MARK = "_lmms_steer"


def wrap_once(owner: Any, name: str, wrapper: Callable[..., Any], kind: Callable[..., Any] | None = None) -> None:
    """Replace `owner.name`.

    Args:
        owner: a module or a class.
        name: of the function; nothing is done where this wrapper has replaced it before.
        wrapper: takes the function and gives what stands for it.
        kind: staticmethod or classmethod, where the function is one.
    """
    current = vars(owner)[name]
    plain = current.__func__ if kind is not None else current
    done: tuple[str, ...] = getattr(plain, _MARK, ())
    if wrapper.__qualname__ in done:
        return
    wrapped = wrapper(plain)
    setattr(wrapped, _MARK, (*done, wrapper.__qualname__))
    setattr(owner, name, kind(wrapped) if kind is not None else wrapped)


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

    wrap_once(TaskManager, "initialize_tasks", indexing)
    wrap_once(TaskManager, "load_task_or_group", ending)


def install(lm: SteeredModel, arg_string: str) -> None:
    """Called for every model of ours that lmms-eval makes from its arguments."""
    from lmms_eval import evaluator
    from lmms_eval.caching.response_cache import ResponseCache
    from lmms_eval.loggers.evaluation_tracker import GeneralConfigTracker

    _by_args[arg_string] = lm
    lm.response_cache_in_use = False
    install_logging()
    wrap_once(evaluator, "evaluate", _with_record)
    wrap_once(GeneralConfigTracker, "_get_model_name", _with_tag, kind=staticmethod)
    wrap_once(ResponseCache, "create", _with_hash, kind=classmethod)
    # not earlier: the evaluator opens the group after the model is made
    atexit.register(_leave_process_group)


def is_command_line() -> bool:
    """Whether lmms-eval runs as a command, not as a library."""
    return "lmms_eval.__main__" in sys.modules


def end_command_line(error: UserError) -> None:
    """Print the line and leave with status 2, if lmms-eval runs as a command; return if it is used as a library."""
    if is_command_line():
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


def install_logging() -> None:
    """Called when tasks are loaded; does nothing where that is not for an evaluation."""
    if "lmms_eval.evaluator" not in sys.modules:
        return
    from lmms_eval import evaluator
    from lmms_eval.loggers.evaluation_tracker import EvaluationTracker
    from lmms_eval.loggers.wandb_logger import WandbLogger

    wrap_once(evaluator, "evaluate", _with_values)
    wrap_once(evaluator, "_process_document_results", _with_facts)
    wrap_once(EvaluationTracker, "save_results_samples", _of_copies)
    wrap_once(WandbLogger, "post_init", _of_one_type)
    wrap_once(WandbLogger, "_get_config", _with_spec)


def _with_values(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        shown_images.clear()
        results = original(*args, **kwargs)
        for metrics in (results or {}).get("results", {}).values():
            for name in [name for name, value in metrics.items() if not isinstance(value, str) and _is_empty(value)]:
                del metrics[name]
        return results

    return evaluate


def _is_empty(value: Any) -> bool:
    return hasattr(value, "__len__") and len(value) == 0


def _with_facts(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _process_document_results(item: Any, *, task: Any, **kwargs: Any) -> Any:
        processed = original(item, task=task, **kwargs)
        sample = processed.logged_sample
        if sample is not None:
            images, choices = shown_images.get((task.config.task, item[0])), choices_of(item[1])
            if images:
                sample.setdefault("images", images)
            if choice_text(str(sample["target"]), choices):
                sample.setdefault("choices", choices)
        return processed

    return _process_document_results


def _of_copies(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def save_results_samples(self: Any, task_name: str, samples: Any) -> Any:
        return original(self, task_name, [dict(sample) for sample in samples])

    return save_results_samples


def _of_one_type(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def post_init(self: Any, results: dict[str, Any]) -> None:
        original(self, results)
        self.results["versions"] = {task: str(version) for task, version in results.get("versions", {}).items()}

    return post_init


def _with_spec(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _get_config(self: Any) -> Any:
        config = original(self)
        record = self.results.get("steering")
        return {**config, "steering": record} if record else config

    return _get_config
