"""Compare a report with the paper: the gains that it publishes, and the rows of its tables that were not run."""

import math
from collections.abc import Sequence

from lmms_steer.recipes.published import (
    GAINS,
    METHODS,
    METRIC,
    MODELS,
    TARGETS,
    TASKS,
    WITHOUT_ROWS,
    WITHOUT_SAE,
    PublishedGain,
    paper_task,
)
from lmms_steer.recipes.report_rows import BEST, ReportRow
from lmms_steer.recipes.report_tables import aligned, format_gain


def published_table(rows: Sequence[ReportRow]) -> str:
    """The published gains, each with the largest gain among the rows that it may be of."""
    titles = ["published", "gain", "largest gain here", "among", "row"]
    cells = [[gain.what, gain.wording, *_largest(gain, rows)] for gain in GAINS]
    explanation = (
        "The paper's tables were not found; these gains are those of its abstract and summaries, without model, concept"
        " or target. The largest of many rows looks better than it is: compare it with the gains of random vectors."
    )
    return "\n".join(["## Published gains", "", *aligned([titles, *cells]), "", explanation])


def incomparable(rows: Sequence[ReportRow]) -> list[str]:
    """A line for each model, task or score that is not the paper's."""
    models = dict.fromkeys((row.model, row.checkpoint) for row in rows)
    counts = dict.fromkeys((row.task, row.n) for row in rows)
    metrics = dict.fromkeys(row.metric for row in rows if row.metric != METRIC)
    return [
        *(
            f"not the paper's: {model} was run with {checkpoint}, not with {MODELS[model]}"
            for model, checkpoint in models
            if model in MODELS and checkpoint != MODELS[model]
        ),
        *(
            f"not the paper's: {known.title} was run on {n} questions, not on {known.questions[task]}"
            for task, n in counts
            if (known := paper_task(task)) and n != known.questions[task]
        ),
        *(f"not the paper's: answers were scored by {metric}, not by {METRIC}" for metric in metrics),
    ]


def not_run(rows: Sequence[ReportRow]) -> list[str]:
    """A line for each row of the paper's tables, a model with a method and a token target, that was not run.

    Rows of which all targets, or all methods too, are missing on the same tasks share a line.
    """
    ran = {(row.model, row.method, row.target, row.title) for row in rows}
    targets = (BEST,) if any(row.target == BEST for row in rows) else TARGETS
    lines: list[str] = []
    for model in MODELS:
        methods = [method for method in METHODS if method != "sae" or model not in WITHOUT_SAE]
        missing = {
            (method, target): tuple(one.title for one in TASKS if (model, method, target, one.title) not in ran)
            for method in methods
            for target in targets
        }
        if len(set(missing.values())) == 1:
            lines.append(_line(model, next(iter(missing.values()))))
            continue
        for method in methods:
            of_method = {target: missing[method, target] for target in targets}
            if len(set(of_method.values())) == 1:
                lines.append(_line(f"{model}, {method}", of_method[targets[0]]))
            else:
                lines += [_line(f"{model}, {method}, {target}", tasks) for target, tasks in of_method.items()]
    lines.append(f"not in these tables: {WITHOUT_ROWS}")
    return list(filter(None, lines))


def _line(what: str, tasks: Sequence[str]) -> str:
    if not tasks:
        return ""
    return f"not run: {what}: {'every task' if len(tasks) == len(TASKS) else ', '.join(tasks)}"


def _largest(published: PublishedGain, rows: Sequence[ReportRow]) -> list[str]:
    """The largest gain of the paper's models, on all questions and by the paper's scorer: gain, number of rows, row."""
    chosen = [row for row in rows if row.title in published.titles and row.target]
    candidates = [row for row in chosen if published.method in ("", row.method)]
    comparable = [row for row in candidates if _is_paper_s(row) and not math.isnan(row.gain)]
    if not comparable:
        why = "no row is of the paper's model, questions and scorer" if candidates else "not run"
        return [why, "", ""]
    best = max(comparable, key=lambda row: row.gain)
    return [
        format_gain(best),
        f"{len(comparable)} rows",
        f"{best.title}: {best.model}, {best.concept}, {best.method}, {best.target}",
    ]


def _is_paper_s(row: ReportRow) -> bool:
    known = paper_task(row.task)
    return (
        row.metric == METRIC
        and MODELS.get(row.model) == row.checkpoint
        and known is not None
        and row.n == known.questions[row.task]
    )
