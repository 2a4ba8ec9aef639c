"""For a number: the command and the hashes that made it, and whether it was chosen on what it is tested on."""

import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from lmms_steer.comparison.runs import RunResults
from lmms_steer.comparison.samples import Samples
from lmms_steer.comparison.systems import System

# other options hold keys for services, or nothing that changes an answer
_OPTIONS: tuple[str, ...] = (
    "model",
    "model_args",
    "tasks",
    "num_fewshot",
    "batch_size",
    "limit",
    "offset",
    "gen_kwargs",
    "seed",
)
_OPTIONS += ("system_instruction", "apply_chat_template", "fewshot_as_multiturn", "repeats", "include_path")
_DEFAULTS: dict[str, Any] = {"offset": 0, "repeats": 1, "seed": [0, 1234, 1234, 1234]}


def harness_command(results: RunResults) -> str:
    """The harness's command line, from what it logged."""
    config = results.said.get("config", {})
    given = {**config, **(config.get("resolved_cli_args") or {})}
    given.setdefault("tasks", ",".join(results.evaluation.samples))
    words = ["lmms-eval" if results.evaluation.harness == "lmms-eval" else "lm_eval"]
    for option in _OPTIONS:
        value = given.get(option)
        if value in (None, "", False) or value == _DEFAULTS.get(option):
            continue
        words += [f"--{option}"] if value is True else [f"--{option}", _typed(value)]
    return shlex.join([*words, "--log_samples"])


def _typed(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={_typed(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ",".join(map(_typed, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def provenance(run: Samples) -> dict[str, Any]:
    """What made a run's numbers on a task; hashes are sha256."""
    results, said = run.results, run.results.said
    steering = results.steering
    return {
        "command": harness_command(results),
        "spec": steering.get("spec") or "",
        "spec_sha256": steering.get("sha256") or "",
        "vectors": {vector["name"]: vector["sha256"] for vector in steering.get("vectors") or ()},
        "samples": run.path.name,
        "samples_sha256": run.sha256,
        "results": results.evaluation.results.name,
        "results_sha256": results.sha256,
        "metric": run.metric,
        "seeds": {key.removesuffix("_seed"): value for key, value in results.seeds.items()},
        "harness": f"{results.evaluation.harness} {_version(said)}".strip(),
        "date": str(said.get("date", "")),
    }


def selection_warnings(systems: Iterable[System], searched: Mapping[str, Collection[str]]) -> list[str]:
    """A line a task on which systems are tested that were chosen on it: the best of many cells gains there by luck.

    Args:
        systems: of the board.
        searched: task ▸ sha256 of vectors that were searched on it.
    """
    chosen: dict[str, list[str]] = {}
    tried: dict[str, list[str]] = {}
    for system in systems:
        for task, run in system.tasks.items():
            if _chosen_here(run):
                chosen.setdefault(task, []).append(system.name)
            elif _searched_here(run, searched):
                tried.setdefault(task, []).append(system.name)
    flattered = [
        f"WARNING: {task}: layer, alpha and tokens of {', '.join(names)} were chosen on questions that they"
        " are tested on, which makes their gain look larger than it is: test on others"
        for task, names in chosen.items()
    ]
    return flattered + [
        f"WARNING: {task}: the vectors of {', '.join(names)} were searched on it: if layer, alpha and tokens come from"
        " there, test on others"
        for task, names in tried.items()
    ]


def _chosen_here(run: Samples) -> bool:
    """By the task's name, or by the questions themselves."""
    task, made = _plain(run.task), run.results.steering.get("provenance") or {}
    # a choice that is kept beside its vector says `tiny_spatial_select (500 questions)`
    if task in {_plain(name.split()[0]) for name in str(made.get("chosen_on") or "").split(",") if name.strip()}:
        return True
    some = str(made.get("some_questions") or "").split()
    # a run's questions take as long to hash as to read
    return bool(some) and not run.questions.isdisjoint(some)


def _searched_here(run: Samples, searched: Mapping[str, Collection[str]]) -> bool:
    """Whether one of its vectors was, where nothing says what layer, alpha and tokens were chosen on."""
    steering = run.results.steering
    if (steering.get("provenance") or {}).get("chosen_on"):
        return False
    tried = {sha for name, shas in searched.items() if _plain(name) == _plain(run.task) for sha in shas}
    return any(vector.get("sha256") in tried for vector in steering.get("vectors") or ())


def _plain(task: str) -> str:
    """Without what says only how its questions are asked."""
    for ending in ("_prompted", "_ll"):
        task = task.removesuffix(ending)
    return task


def _version(said: dict[str, Any]) -> str:
    return str(said.get("lmms_eval_version") or said.get("lm_eval_version") or "")
