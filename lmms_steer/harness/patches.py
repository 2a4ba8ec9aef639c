"""Patches to lmms-eval 0.7.3, where it has no extension point for a plugin.

Each patch wraps one function and is applied once. The last two concern every model, the others only ours:

| Patched | Effect | Why |
|---|---|---|
| `TaskManager._get_task_and_group` | reads installed task files by libyaml | 2,200 files took two seconds |
| `TaskManager.initialize_tasks` | indexes our task folder | otherwise every command needs `--include_path` |
| `TaskManager.initialize_tasks` | a failed run ends the command | `cli_evaluate` catches exceptions and exits with 0 |
| `TaskManager.load_task_or_group` | a `UserError` ends the command | missing data is a user's mistake |
| `TaskManager.load_task_or_group` | the errors of the Hub, too (ours only) | retries hide the cause in tracebacks |
| `TaskManager.load_task_or_group` | checks a user's rows | an answer that is no choice always scores 0 |
| `TaskManager._load_individual_task_or_group` | asks `steered_NAME` as NAME | tasks have prompts for names |
| `evaluator.evaluate` | checks the options, adds `steering` to the results | a result must name its spec |
| `GeneralConfigTracker.log_experiment_args` | names the output folder by the steering | no two systems may share it |
| `ResponseCache.create` | adds a hash of weights, vectors and versions to the key | no answer may be stale |
| `evaluator.evaluate` | checks the output folder first | hours of work must have a place to go |
| `EvaluationTracker.save_results_…` | saves all or nothing, else ends the command | it swallows a full disk |

In addition, the process group that the evaluator opens under torchrun is closed at exit: lmms-eval leaves it open.
What is changed in samples and wandb logs is in `sample_patches`.
"""

import atexit
import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

from lmms_steer._util.hashing import stable_hash
from lmms_steer.errors import UserError
from lmms_steer.harness import sample_patches
from lmms_steer.harness.arguments import join_model_args
from lmms_steer.harness.command_line import end_command_line, end_failed_runs, is_ours
from lmms_steer.harness.names import wrapper_of
from lmms_steer.harness.saving import check_output, saved_with_results, saved_with_samples
from lmms_steer.harness.task_files import tasks_dir
from lmms_steer.harness.task_index import with_libyaml
from lmms_steer.harness.tasks import cannot_be_loaded, check_choices, loading_mistake, out_of_reach
from lmms_steer.steering.hooks import Attachment
from lmms_steer.steering.resolved import ResolvedSpec

_MARK = "_lmms_steer"
"""Attribute of a patched function: the names of the wrappers that were applied to it."""


def wrap_once(owner: Any, name: str, wrapper: Callable[..., Any], kind: Callable[..., Any] | None = None) -> None:
    """Replace the function `owner.name` by a wrapper around it, unless this wrapper was applied before.

    Args:
        owner: a module or a class.
        name: the function's name.
        wrapper: takes the function and returns its replacement.
        kind: staticmethod or classmethod, if the function is one.
    """
    current = vars(owner)[name]
    function = current.__func__ if kind is not None else current
    applied: tuple[str, ...] = getattr(function, _MARK, ())
    if wrapper.__qualname__ in applied:
        return
    wrapped = wrapper(function)
    setattr(wrapped, _MARK, (*applied, wrapper.__qualname__))
    setattr(owner, name, kind(wrapped) if kind is not None else wrapped)


class SteeredModel(Protocol):
    """What the patches need of a model."""

    resolved: ResolvedSpec
    attachment: Attachment
    response_cache_in_use: bool

    def start_evaluation(self) -> None:
        """Forget what belongs to an earlier evaluation of the same object."""

    def end_evaluation(self) -> None:
        """Warn of an evaluation that the spec had no effect on."""

    @property
    def steering_record(self) -> dict[str, Any]:
        """The `steering` entry of the results."""

    @property
    def cache_key(self) -> str:
        """A hash for the key of a response cache."""


_by_args: WeakValueDictionary[str, SteeredModel] = WeakValueDictionary()
"""`--model_args` as one line ▸ the last model that was made from it. lmms-eval passes only these to what we patch."""


def index_our_tasks() -> None:
    """Patch `TaskManager`, so that every instance has our tasks. Called when lmms-eval loads its plugins."""
    from lmms_eval.tasks import TaskManager

    wrap_once(TaskManager, "_get_task_and_group", with_libyaml)
    wrap_once(TaskManager, "initialize_tasks", _with_our_tasks)
    wrap_once(TaskManager, "load_task_or_group", _with_errors_ending)
    wrap_once(TaskManager, "_load_individual_task_or_group", _with_prompts_of_wrapper)


def remember(lm: SteeredModel, arg_string: str) -> None:
    """Note which model was made from which `--model_args`. Called for every model that lmms-eval makes from them."""
    _by_args[arg_string] = lm
    lm.response_cache_in_use = False
    # registered this late, because the evaluator opens the group after the model is made
    atexit.register(_close_process_group)


def _made_from(model: object, model_args: object) -> SteeredModel | None:
    """The model of ours that was made for this run, if it is one of ours."""
    if not isinstance(model_args, str | Mapping) or not is_ours(model):
        return None
    return _by_args.get(join_model_args(model_args))


def install() -> None:
    """Apply the other patches, if lmms-eval's evaluator is imported.

    Called when a model of ours is made, and when tasks are loaded, since the evaluator may be imported in between.
    """
    if "lmms_eval.evaluator" not in sys.modules:
        return
    from lmms_eval import evaluator
    from lmms_eval.caching.response_cache import ResponseCache
    from lmms_eval.loggers.evaluation_tracker import EvaluationTracker, GeneralConfigTracker
    from lmms_eval.loggers.wandb_logger import WandbLogger

    wrap_once(evaluator, "evaluate", sample_patches.with_warnings)
    wrap_once(evaluator, "consolidate_results", sample_patches.without_empty_metrics)
    wrap_once(evaluator, "_process_document_results", sample_patches.with_images_and_choices)
    wrap_once(evaluator, "evaluate", _with_output_checked)
    wrap_once(EvaluationTracker, "save_results_samples", sample_patches.with_copies)
    wrap_once(EvaluationTracker, "save_results_samples", _saved_with_results)
    wrap_once(EvaluationTracker, "save_results_aggregated", _saved_with_samples)
    wrap_once(WandbLogger, "post_init", sample_patches.with_text_versions)
    wrap_once(WandbLogger, "_get_config", sample_patches.with_spec_in_config)
    wrap_once(evaluator, "evaluate", _with_record)
    wrap_once(GeneralConfigTracker, "log_experiment_args", _with_spec_in_name)
    wrap_once(ResponseCache, "create", _with_spec_in_key, kind=classmethod)


def _close_process_group() -> None:
    """Close torch's process group before the interpreter shuts down, because its threads can abort the exit."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _with_our_tasks(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def initialize_tasks(self: Any, include_path: Any = None, include_defaults: bool = True) -> Any:
        paths = [include_path] if isinstance(include_path, str) else list(include_path or [])
        ours = [] if tasks_dir() in paths else [tasks_dir()]
        end_failed_runs(getattr(self, "model_name", None))
        for path in paths if is_ours(getattr(self, "model_name", None)) else []:
            # lmms-eval would say that it does not know the task
            if not Path(path).is_dir():
                raise UserError(f"--include_path {path}: no such folder")
        return original(self, include_path=[*paths, *ours], include_defaults=include_defaults)

    return _ending(initialize_tasks)


def _with_errors_ending(original: Callable[..., Any]) -> Callable[..., Any]:
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            loaded = original(self, *args, **kwargs)
        except Exception as error:
            mistake = loading_mistake(error)
            if mistake is None and is_ours(self.model_name) and out_of_reach(error):
                mistake = cannot_be_loaded(_task_names(args[0] if args else kwargs.get("task_list")), error)
            if mistake is None:
                raise
            raise mistake from error
        check_choices(loaded)
        return loaded

    @functools.wraps(original)
    def load_task_or_group(self: Any, *args: Any, **kwargs: Any) -> Any:
        install()
        return _ending(checked)(self, *args, **kwargs)

    return load_task_or_group


def _with_prompts_of_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _load_individual_task_or_group(self: Any, *args: Any, **kwargs: Any) -> Any:
        named = self.model_name
        self.model_name = (wrapper_of(named) if isinstance(named, str) else None) or named
        try:
            return original(self, *args, **kwargs)
        finally:
            # the other patches know our models by it
            self.model_name = named

    return _load_individual_task_or_group


def _task_names(given: Any) -> str:
    """The names in what `load_task_or_group` takes: a name, a list of names, or tasks' keys among them."""
    return ", ".join(
        one if isinstance(one, str) else "a task" for one in ([given] if isinstance(given, str) else given or ())
    )


def _ending(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a user's mistake end lmms-eval's command line, which would go on after an `Exception`."""

    @functools.wraps(function)
    def ending(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            end_command_line(error)
            raise

    return ending


def _saved_with_samples(original: Callable[..., Any]) -> Callable[..., Any]:
    return _ending(saved_with_samples(original))


def _saved_with_results(original: Callable[..., Any]) -> Callable[..., Any]:
    return _ending(saved_with_results(original))


def _with_output_checked(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def evaluate(lm: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(lm, "rank", 0) == 0:
            _ending(check_output)(kwargs.get("cli_args"), _output_name(lm) if is_steered(lm) else None)
        return original(lm, *args, **kwargs)

    return evaluate


def _with_record(original: Callable[..., Any]) -> Callable[..., Any]:
    def checked(lm: Any, task_dict: Any, *args: Any, **kwargs: Any) -> Any:
        # imports torch
        from lmms_steer.harness.run_checks import check_run

        check_run(lm, task_dict, kwargs.get("cli_args"), kwargs)
        lm.start_evaluation()
        results = original(lm, task_dict, *args, **kwargs)
        # some of lmms-eval's wrappers catch every exception and go on with an empty answer
        if lm.attachment.failure is not None:
            raise lm.attachment.failure
        lm.end_evaluation()
        if results is not None:
            results["steering"] = lm.steering_record
        return results

    @functools.wraps(original)
    def evaluate(lm: Any, task_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return _ending(checked if is_steered(lm) else original)(lm, task_dict, *args, **kwargs)

    return evaluate


def is_steered(lm: object) -> bool:
    """Whether a model is one of ours."""
    return hasattr(lm, "steering_record")


def _output_name(lm: SteeredModel) -> str:
    """The name of a run's output folder: the model, and what is done to it."""
    return f"{lm.steering_record['model']}{output_suffix(lm)}"


def output_suffix(lm: SteeredModel) -> str:
    """What is done to a model, for the end of its output folder's name; "" for the plain model.

    `__spatial-mean_shift_L3_a0.5_image_1a2b3c4d`, `__image-blank`, `__vcd_1a2b3c4d`: the hashes cover all settings.
    """
    record = lm.steering_record
    spec = f"__{lm.resolved.tag}" if lm.resolved.spec else ""
    image = f"__image-{record['image']}" if "image" in record else ""
    contrast, bias = record.get("contrast"), record.get("answer_bias")
    settings = {
        contrast["name"] if contrast else "contrast": contrast,
        "answer_bias": bias,
        "prompt_prefix": getattr(lm, "prompt_prefix", ""),
    }
    given = {name: value for name, value in settings.items() if value}
    number = stable_hash(json.dumps(given, sort_keys=True)) % 2**32
    others = f"__{'+'.join(given)}_{number:08x}" if given else ""
    return f"{spec}{image}{others}"


def _with_spec_in_name(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def log_experiment_args(self: Any, model_source: Any, model_args: Any, *args: Any, **kwargs: Any) -> None:
        lm = model_source if is_steered(model_source) else _made_from(model_source, model_args)
        if lm is not None and isinstance(model_args, Mapping):
            # lmms-eval takes the name of a folder from the line
            model_args = join_model_args(model_args)
        # a model that was given as an object would be copied into the results
        source = model_source if isinstance(model_source, str) else type(model_source).__name__
        original(self, source, model_args, *args, **kwargs)
        if lm is not None:
            from lmms_eval.utils import sanitize_model_name

            self.model_name = _output_name(lm)
            self.model_name_sanitized = sanitize_model_name(self.model_name)

    return log_experiment_args


def _with_spec_in_key(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def create(cls: Any, cache_root: str, *, model: Any = "", model_args: Any = "", **kwargs: Any) -> Any:
        if is_steered(model):
            raise UserError("use_cache cannot tell models apart that are given as objects: give model and model_args")
        lm = _made_from(model, model_args)
        if lm is not None:
            lm.response_cache_in_use = True
            model_args = f"{join_model_args(model_args)},steering_sha256={lm.cache_key}"
        return original(cls, cache_root, model=model, model_args=model_args, **kwargs)

    return create
