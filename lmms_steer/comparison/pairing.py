"""Whether two runs may be compared question by question."""

from typing import Any

import numpy as np

from lmms_steer.comparison.samples import Samples


def refusal(run: Samples, baseline: Samples, prompt_may_differ: bool = False) -> str:
    """Why a run's task cannot be paired with the baseline's; "" where it can.

    Args:
        run: what would be compared.
        baseline: with what.
        prompt_may_differ: for a system that is another prompt.
    """
    if not np.array_equal(run.keys, baseline.keys):
        common = len(np.intersect1d(run.keys, baseline.keys, assume_unique=True))
        return f"other samples: {common} of its {len(run.keys)} are among the baseline's {len(baseline.keys)}"
    seeds = _differing(run.results.seeds, baseline.results.seeds)
    if seeds:
        return f"other seeds: {seeds}"
    setting = _differing(_setting(run), _setting(baseline))
    if setting and not prompt_may_differ:
        return f"other prompts: {setting}"
    prompts = int((run.prompts != baseline.prompts).sum())
    if prompts and not prompt_may_differ:
        return f"other prompts: on {prompts} of {len(run.keys)} questions"
    shown = int(((run.images != baseline.images) & (run.images != 0) & (baseline.images != 0)).sum())
    if shown and run.images_by == baseline.images_by:
        return f"other images: on {shown} of {len(run.keys)} questions"
    if run.metric != baseline.metric:
        return f"another score: {run.metric or 'none'}, the baseline's is {baseline.metric or 'none'}"
    missing = int(np.isnan(run.scores + baseline.scores).sum())
    if missing:
        return f"no score on {missing} of {len(run.keys)} questions; --metric says what to compare by"
    return ""


def _setting(run: Samples) -> dict[str, Any]:
    """What shapes the prompt and is not in the logged text."""
    said = run.results.said
    return {
        "shots": said.get("n-shot", {}).get(run.task),
        "version of the task": said.get("versions", {}).get(run.task),
        "system instruction": said.get("system_instruction_sha"),
    }


def _differing(run: dict[str, Any], baseline: dict[str, Any]) -> str:
    return ", ".join(f"{key} {run[key]}, the baseline's {baseline[key]}" for key in run if run[key] != baseline[key])
