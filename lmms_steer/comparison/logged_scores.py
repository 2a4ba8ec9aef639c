"""Scores of single answers for tasks of lmms-eval that log only what they aggregate when all answers are there.

| task | metric | score of one answer |
|---|---|---|
| `coco_cap_chair` | `coco_cap_chair_i` | wrong mentions of objects / all mentions; 0 without any |
| | `coco_cap_chair_s` | 1 if a mention is wrong |
| | `coco_cap_recall` | objects that are mentioned / objects |
| `amber_g` | `amber_chair`, `amber_cover`, `amber_cog` | the shares of lmms-eval's counts |
| | `amber_hal` | 1 if a mention is wrong |
| `hallusion_bench_image` | `aAcc`, `qAcc`, `fAcc` | 1 if the answer begins with the right one of yes and no |

lmms-eval's CHAIR_i and AMBER's shares are of all captions together; a mean over captions weighs each the same.
HallusionBench's own verdicts are a judge's, and are not logged.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lmms_steer.scoring.yes_no import says_yes

_AMBER = {
    "amber_chair": ("chair_score", "chair_num"),
    "amber_cover": ("safe_cover_score", "safe_cover_num"),
    "amber_cog": ("hallu_cover_score", "hallu_cover_num"),
}
"""Metric ▸ the counts whose share it is."""
_RECALL = ("coco_cap_recall", "amber_cover")
"""Metrics that are the share of an image's objects that a caption mentions."""


def logged_score(metric: str, value: Mapping[str, Any]) -> float:
    """The score of one answer from what a task logged under a metric's name; NaN if there is none.

    Raises:
        TypeError, ValueError: for something other than numbers and lists where they should be.
    """
    if "score" in value:
        return float(value["score"])
    if metric.startswith("coco_cap_") and isinstance(value.get("pred"), list) and isinstance(value.get("answer"), list):
        return _chair(metric, value["pred"], value["answer"])
    if metric in _AMBER:
        part, whole = (float(value.get(key, math.nan)) for key in _AMBER[metric])
        return part / whole if whole else 0.0
    if metric == "amber_hal":
        return 1 - float(value.get("non_hallu_score", math.nan))
    if "gt_answer" in value and "model_prediction" in value:
        return float(says_yes(value["model_prediction"]) == float(value["gt_answer"]))
    return math.nan


def logged_recall(sample: Mapping[str, Any]) -> float:
    """The share of an image's objects that a logged caption mentions; NaN where the task does not count them."""
    for metric in _RECALL:
        if isinstance(sample.get(metric), dict):
            return logged_score(metric, sample[metric])
    return math.nan


def _chair(metric: str, mentioned: Sequence[Any], there: Sequence[Any]) -> float:
    wrong = sum(one not in there for one in mentioned)
    if metric == "coco_cap_chair_i":
        return wrong / len(mentioned) if mentioned else 0.0
    if metric == "coco_cap_chair_s":
        return float(wrong > 0)
    objects = {str(one) for one in there}
    return len(objects & {str(one) for one in mentioned}) / len(objects) if objects else math.nan
