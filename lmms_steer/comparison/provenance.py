"""The provenance of a number: its command and hashes, and whether its settings were chosen on the tested questions."""

import json
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lmms_steer.comparison.identity import contrast_line
from lmms_steer.comparison.runs import RunResults
from lmms_steer.comparison.samples import Samples
from lmms_steer.comparison.systems import System, split_prompted
from lmms_steer.harness.names import LM_EVAL_MODELS
from lmms_steer.models import BLANK

# other options hold keys of services, or do not change an answer
_OPTIONS = (
    "model",
    "model_args",
    "tasks",
    "num_fewshot",
    "batch_size",
    "limit",
    "offset",
    "gen_kwargs",
    "seed",
    "system_instruction",
    "apply_chat_template",
    "fewshot_as_multiturn",
    "repeats",
    "include_path",
)
_DEFAULTS: dict[str, object] = {"offset": 0, "repeats": 1, "seed": [0, 1234, 1234, 1234]}
_LIKELIHOOD_SUFFIX = "_ll"


@dataclass(frozen=True)
class RunProvenance:
    """How a run's numbers on a task were made. All hashes are sha256; what is not known is "".

    Attributes:
        command: the harness's command line.
        spec: the steering spec, and whether the images were blank, and the contrast.
        spec_sha256: its hash.
        vectors: name ▸ hash of each vector.
        samples: the name of the samples file.
        samples_sha256: its hash.
        results: the name of the results file.
        results_sha256: its hash.
        metric: the name of the score.
        seeds: the harness's seeds.
        harness: its name and version.
        date: as the harness wrote it.
    """

    command: str
    spec: str
    spec_sha256: str
    vectors: dict[str, str]
    samples: str
    samples_sha256: str
    results: str
    results_sha256: str
    metric: str
    seeds: dict[str, object]
    harness: str
    date: str


def run_provenance(run: Samples) -> RunProvenance:
    """Collect how a run's numbers on a task were made."""
    results, content, steering = run.results, run.results.content, run.results.steering
    image = "image=blank" if steering.get("image") == BLANK else ""
    version = content.get("lmms_eval_version") or content.get("lm_eval_version") or ""
    return RunProvenance(
        command=harness_command(results),
        spec=", ".join(filter(None, (steering.get("spec"), image, contrast_line(steering.get("contrast"))))),
        spec_sha256=steering.get("sha256") or "",
        vectors={vector["name"]: vector["sha256"] for vector in steering.get("vectors") or ()},
        samples=run.path.name,
        samples_sha256=run.sha256,
        results=results.evaluation.results.name,
        results_sha256=results.sha256,
        metric=run.metric,
        seeds={key.removesuffix("_seed"): value for key, value in results.seeds.items()},
        harness=f"{results.evaluation.harness} {version}".strip(),
        date=str(content.get("date", "")),
    )


def harness_command(results: RunResults) -> str:
    """Rebuild the harness's command line from its log, with an output folder of the reader's."""
    config = results.content.get("config", {})
    options = {**config, **(config.get("resolved_cli_args") or {})}
    options.setdefault("tasks", ",".join(results.evaluation.samples))
    words = ["lmms-eval"]
    if results.evaluation.harness == "lm-eval":
        options |= _lm_eval_options(results)
        words = ["lmms-steer", "lm-eval", "run"] if options.get("model") in LM_EVAL_MODELS else ["lm_eval"]
    for option in _OPTIONS:
        value = options.get(option)
        if value in (None, "", False, {}) or value == _DEFAULTS.get(option):
            continue
        words += [f"--{option}"] if value is True else [f"--{option}", _option_text(value)]
    return shlex.join([*words, "--output_path", "runs", "--log_samples"])


def _lm_eval_options(results: RunResults) -> dict[str, Any]:
    """The options that lm-eval logs elsewhere than in `config`, or by another name. It logs no `--include_path`."""
    content = results.content
    options: dict[str, Any] = {"system_instruction": content.get("system_instruction")}
    shots = [(content.get("n-shot") or {}).get(task) for task in results.evaluation.samples]
    # tasks with different numbers have their own
    if shots and shots[0] is not None and all(one == shots[0] for one in shots):
        options["num_fewshot"] = str(shots[0])
    if any(seed is not None for seed in results.seeds.values()):
        options["seed"] = list(results.seeds.values())
    if content.get("chat_template_sha"):
        options["apply_chat_template"] = True
        # the template turns it on
        options["fewshot_as_multiturn"] = None if content.get("fewshot_as_multiturn") else "false"
    return options


def selection_warnings(systems: Iterable[System], searched: Mapping[str, Collection[str]]) -> list[str]:
    """Warn of systems whose settings were chosen on the questions that they are tested on.

    The best of many cells gains there by chance alone.

    Args:
        systems: of the leaderboard.
        searched: task ▸ sha256 of the vectors that were searched on it.

    Returns:
        One line for each such task.
    """
    chosen: dict[str, list[str]] = {}
    possibly_chosen: dict[str, list[str]] = {}
    for system in systems:
        for task, run in system.tasks.items():
            if chosen_on_test(run):
                chosen.setdefault(task, []).append(system.name)
            elif _searched_on_test(run, searched):
                possibly_chosen.setdefault(task, []).append(system.name)
    return [
        f"WARNING: {task}: layer, alpha and tokens of {', '.join(names)} were chosen on questions that they"
        " are tested on, so their gain looks larger than it is: test on other questions"
        for task, names in chosen.items()
    ] + [
        f"WARNING: {task}: the vectors of {', '.join(names)} were searched on this task: if layer, alpha and tokens"
        " come from that search, test on other questions"
        for task, names in possibly_chosen.items()
    ]


def chosen_on_test(run: Samples) -> bool:
    """Compare the record of the choice with the run, by the task's name and by hashes of questions."""
    record = run.results.steering.get("provenance") or {}
    if _base_task(run.task) in map(_base_task, chosen_on_tasks(record)):
        return True
    some_questions = str(record.get("some_questions") or "").split()
    # hashing a run's questions takes as long as reading them
    return bool(some_questions) and not run.question_ids.isdisjoint(some_questions)


def chosen_on_tasks(provenance: Mapping[str, Any]) -> list[str]:
    """The tasks that a run's settings were chosen on, by the provenance in its steering record."""
    # a choice that is stored beside its vector says `tiny_spatial_select (500 questions)`
    return [name.split()[0] for name in str(provenance.get("chosen_on") or "").split(",") if name.strip()]


def _searched_on_test(run: Samples, searched: Mapping[str, Collection[str]]) -> bool:
    """Whether a vector of the run was searched on its task, and nothing records where the settings were chosen."""
    steering = run.results.steering
    if (steering.get("provenance") or {}).get("chosen_on"):
        return False
    task = _base_task(run.task)
    hashes = {sha256 for name, vectors in searched.items() if _base_task(name) == task for sha256 in vectors}
    return any(vector.get("sha256") in hashes for vector in steering.get("vectors") or ())


def _base_task(task: str) -> str:
    """Remove the suffixes that change only how the questions are asked."""
    return split_prompted(task)[0].removesuffix(_LIKELIHOOD_SUFFIX)


def _option_text(value: Any) -> str:
    if isinstance(value, dict):
        if any(isinstance(part, dict | list) or "," in str(part) for part in value.values()):
            return json.dumps(value)
        return ",".join(f"{key}={_option_text(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ",".join(map(_option_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
