"""`lmms-steer lm-eval`: lm-evaluation-harness's own command line with our models, and checks that it lacks."""

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from lm_eval import evaluator
from lm_eval._cli.utils import MergeDictAction, split_top_level
from lm_eval.api import registry
from lm_eval.api.model import CachingLM
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.loggers.evaluation_tracker import GeneralConfigTracker
from lm_eval.utils import sanitize_model_name

from lmms_steer._util.logging import print_notes
from lmms_steer.errors import UserError, first_line
from lmms_steer.harness.arguments import check_repeated
from lmms_steer.harness.lm_eval import SteeredHFLM, SteeredHFMultimodalLM, SteeredLmEval
from lmms_steer.harness.names import LM_EVAL_MODELS
from lmms_steer.harness.patches import output_suffix, wrap_once


def register() -> None:
    """Register both models with lm-eval, as `steered_hf` and `steered_hf_multimodal`."""
    import lm_eval.models  # noqa: F401  lm-eval fills its registry only while it is empty

    for name, model in zip(LM_EVAL_MODELS, (SteeredHFLM, SteeredHFMultimodalLM), strict=True):
        if name not in registry.model_registry:
            registry.model_registry.register(name, target=model)


def run(arguments: list[str]) -> None:
    """Run lm-eval's command line with our models registered.

    Args:
        arguments: the command line after `lm-eval`.
    """
    from lm_eval.__main__ import cli_evaluate

    register()
    wrap_once(evaluator, "evaluate", _with_checked_options)
    wrap_once(MergeDictAction, "__call__", _with_each_key_once)
    wrap_once(GeneralConfigTracker, "log_experiment_args", _with_spec_in_folder)
    print_notes()
    sys.argv = ["lm-eval", *arguments]
    try:
        cli_evaluate()
    except ValueError as error:
        # its configuration checks options that contradict each other, and its registry the name of the model
        mistakes = (EvaluatorConfig.__module__, registry.__name__)
        if not isinstance(error, UserError) and _raised_in(error) in mistakes:
            raise UserError(f"lm-eval: {first_line(error)}") from error
        raise


def _raised_in(error: BaseException) -> str:
    """The name of the module that raised an error."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return str(last.tb_frame.f_globals.get("__name__")) if last is not None else ""


def _check_options(tasks: Mapping[str, Any], limit: float | None) -> None:
    """Check the number of questions, and of the examples in front of each.

    Args:
        tasks: name ▸ task.
        limit: of the command line.

    Raises:
        UserError: for a limit that leaves no question, or more examples than there are.
    """
    if limit is not None and limit <= 0:
        raise UserError(f"--limit {limit:g} leaves no questions: leave it out for all of them")
    for name, task in tasks.items():
        asked = getattr(getattr(task, "config", None), "num_fewshot", None)
        if not asked:
            continue
        if asked < 0:
            raise UserError(f"--num_fewshot {asked}: expected a whole number from 0 up")
        if getattr(task, "MULTIMODAL", False):
            raise UserError(f"--num_fewshot {asked}: lm-eval gives the examples of {name} without their images")
        # a question is none of its own examples
        own_split = task.fewshot_cfg.split == task.config.test_split
        available = len(list(task.sampler.fewshot_docs())) - own_split
        if asked > available:
            raise UserError(f"--num_fewshot {asked}: {name} has {available} examples for each question")


def _with_checked_options(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def evaluate(lm: Any, task_dict: Any, *args: Any, **kwargs: Any) -> Any:
        # with --use_cache the model is inside of another
        if isinstance(lm.lm if isinstance(lm, CachingLM) else lm, SteeredLmEval):
            _check_options(task_dict["tasks"], kwargs.get("limit"))
        return original(lm, task_dict, *args, **kwargs)

    return evaluate


def _with_spec_in_folder(original: Callable[..., Any]) -> Callable[..., Any]:
    """Name the output folder by what is done to the model, so that two systems do not share one."""

    @functools.wraps(original)
    def log_experiment_args(self: Any, model_source: Any, *args: Any, **kwargs: Any) -> None:
        original(self, model_source, *args, **kwargs)
        lm = SteeredLmEval.newest()
        if model_source in LM_EVAL_MODELS and lm is not None:
            self.model_name_sanitized += sanitize_model_name(output_suffix(lm))

    return log_experiment_args


def _with_each_key_once(original: Callable[..., Any]) -> Callable[..., Any]:
    """For an option of lm-eval whose key=value pairs are merged into a dict: the last of equal keys would win."""

    @functools.wraps(original)
    def __call__(self: Any, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        texts = [str(value) for value in values or []]
        pairs = [f"{name}={value}" for name, value in (getattr(namespace, self.dest, None) or {}).items()]

        def check(found: list[tuple[str, Any]]) -> dict[str, Any]:
            check_repeated([f"{name}={value}" for name, value in found], str(option_string))
            return dict(found)

        # lm-eval, too, takes a first value for JSON if it can be read as such
        with contextlib.suppress(json.JSONDecodeError):
            read = json.loads("".join(texts[:1]), object_pairs_hook=check)
            texts = [f"{name}={value}" for name, value in read.items()] if isinstance(read, dict) else texts
        check_repeated([*pairs, *(pair for text in texts for pair in split_top_level(text))], str(option_string))
        original(self, parser, namespace, values, option_string)

    return __call__
