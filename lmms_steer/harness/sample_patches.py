"""Patches to lmms-eval's samples and wandb logs, for every model that is evaluated in the process.

| Patched | Effect | Why |
|---|---|---|
| `evaluator.evaluate` | warns of many unparsed answers | they count as wrong |
| `evaluator.consolidate_results` | removes metrics without a value | they can be neither averaged nor logged |
| `evaluator._process_document_results` | adds `images` to samples of our models | shows which questions share one |
| `evaluator._process_document_results` | adds `choices` to a sample | shows what a target's letter stands for |
| `EvaluationTracker.save_results_samples` | gets copies | it strips samples that `--wandb_log_samples` reads later |
| `WandbLogger.post_init` | makes task versions text | wandb refuses a column of numbers and texts |
| `WandbLogger._get_config` | adds `steering` to the run's config | a run must name its spec |
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

from lmms_steer._util.logging import print_notes
from lmms_steer.harness.command_line import is_command_line
from lmms_steer.models.visuals import shown_images
from lmms_steer.scoring.choice import choice_text, choices_of
from lmms_steer.scoring.unparsed import unparsed_warning

logger = logging.getLogger(__name__)


def with_warnings(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        shown_images.clear()
        results = original(*args, **kwargs)
        for task, metrics in (results or {}).get("results", {}).items():
            _warn_of_unparsed(task, metrics)
        return results

    return evaluate


def without_empty_metrics(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def consolidate_results(*args: Any, **kwargs: Any) -> Any:
        results, *others = original(*args, **kwargs)
        for metrics in results.values():
            for name in [name for name, value in metrics.items() if not isinstance(value, str) and _is_empty(value)]:
                del metrics[name]
        return results, *others

    return consolidate_results


def _warn_of_unparsed(task: str, metrics: dict[str, Any]) -> None:
    share = metrics.get("unparsed,none")
    warning = unparsed_warning(task, {"": share}) if isinstance(share, float) else ""
    if warning:
        if is_command_line():
            print_notes()
        logger.warning(warning)


def _is_empty(value: Any) -> bool:
    return hasattr(value, "__len__") and len(value) == 0


def with_images_and_choices(original: Callable[..., Any]) -> Callable[..., Any]:
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


def with_copies(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def save_results_samples(self: Any, task_name: str, samples: Any) -> Any:
        return original(self, task_name, [dict(sample) for sample in samples])

    return save_results_samples


def with_text_versions(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def post_init(self: Any, results: dict[str, Any]) -> None:
        original(self, results)
        self.results["versions"] = {task: str(version) for task, version in results.get("versions", {}).items()}

    return post_init


def with_spec_in_config(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _get_config(self: Any) -> Any:
        config = original(self)
        record = self.results.get("steering")
        return {**config, "steering": record} if record else config

    return _get_config
