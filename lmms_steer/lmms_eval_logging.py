"""What lmms-eval 0.7.3 logs of an evaluation, whatever its model, made fit for comparisons and for wandb.

* `evaluator._process_document_results`: a sample names the images that a model of ours was shown, by content
  (`images`), so that a comparison knows which questions share one, and says what its target's letter stands for
  (`choices`): lmms-eval does not write the document;
* `evaluator.evaluate`: metrics without a value go (`score: []` of our tasks would end wandb's logging);
* `EvaluationTracker.save_results_samples` strips the samples that `--wandb_log_samples` reads later: it gets copies;
* `WandbLogger.post_init`: versions are texts (wandb refuses a column of numbers and texts, which mixed tasks have);
* `WandbLogger._get_config`: the wandb run's config holds the record of the steering.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

from lmms_steer.models.image_ids import shown
from lmms_steer.scoring.choice import choices_of, text_of
from lmms_steer.wrapping import wrap


def install_logging() -> None:
    """Called when tasks are loaded; does nothing where that is not for an evaluation."""
    if "lmms_eval.evaluator" not in sys.modules:
        return
    from lmms_eval import evaluator
    from lmms_eval.loggers.evaluation_tracker import EvaluationTracker
    from lmms_eval.loggers.wandb_logger import WandbLogger

    wrap(evaluator, "evaluate", _with_values)
    wrap(evaluator, "_process_document_results", _with_facts)
    wrap(EvaluationTracker, "save_results_samples", _of_copies)
    wrap(WandbLogger, "post_init", _of_one_type)
    wrap(WandbLogger, "_get_config", _with_spec)


def _with_values(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        shown.clear()
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
            images, choices = shown.get((task.config.task, item[0])), choices_of(item[1])
            if images:
                sample.setdefault("images", images)
            if text_of(str(sample["target"]), choices):
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
