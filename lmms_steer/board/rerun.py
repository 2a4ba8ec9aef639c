"""`lmms-steer leaderboard rerun`: run an entry's command again on some of its questions, and compare the answers."""

import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from lmms_steer.board.case import Case, read_case
from lmms_steer.board.checks import missing_vectors
from lmms_steer.board.entry import ENTRIES, SPEC, read_entry
from lmms_steer.board.samples_file import logged_answer
from lmms_steer.comparison.identity import model_arguments
from lmms_steer.comparison.provenance import harness_command
from lmms_steer.comparison.runs import newest_evaluation, read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.errors import UserError, shorten
from lmms_steer.harness.arguments import join_model_args, unquote
from lmms_steer.harness.names import MODELS
from lmms_steer.harness.presets import expand_preset
from lmms_steer.harness.task_files import kind_of
from lmms_steer.steering.intervention import FIELDS
from lmms_steer.steering.spec import SteeringSpec

_SHOWN = 5
"""Answers that differ and are printed."""
_OWN_OPTIONS = {"model", "model_args", "tasks", "batch_size", "num_fewshot", "gen_kwargs", "seed", "system_instruction"}
"""The options of an entry that are repeated without `--trust`."""


@dataclass(frozen=True)
class Rerun:
    """How much of a repeated run is as in the entry.

    Attributes:
        asked: questions that were asked again.
        same: of those, answers that are the same text.
        lines: what to print.
    """

    asked: int
    same: int
    lines: tuple[str, ...]


def rerun(folder: Path, limit: int, offset: int | None = None, trust: bool = False) -> Rerun:
    """Run an entry's command again.

    Args:
        folder: the entry's.
        limit: the number of questions.
        offset: questions of the task to skip; None for as many as the entry's run did.
        trust: whether a command may run code that the entry names: tasks of its own, or a model's remote code.

    Raises:
        UserError: for an entry that cannot be read, of another harness, without its vectors, with code that is not
            trusted, or whose command fails.
    """
    case = _read(folder)
    with TemporaryDirectory() as name:
        words = command(case, Path(name), limit, offset, trust)
        log = Path(name) / "log.txt"
        with log.open("w") as file:
            done = subprocess.run(
                [sys.executable, "-m", "lmms_eval", *words[1:]], stdout=file, stderr=file, check=False
            )
        if done.returncode:
            said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise UserError(f"{shlex.join(words)} ended with status {done.returncode}: {shorten((said or [''])[-1])}")
        results = read_results(newest_evaluation(Path(name) / "run"))
        samples = read_samples(results, case.entry.harness_task)
        again = dict(zip(samples.keys.tolist(), map(logged_answer, samples.read_logged()), strict=True))
    return _compared(case, again)


def command(case: Case, work: Path, limit: int, offset: int | None = None, trust: bool = False) -> list[str]:
    """The command line that runs an entry again, with its vectors from the entry's folder.

    Args:
        case: the entry.
        work: a folder for the spec and the run.
        limit, offset, trust: as for `rerun`.

    Raises:
        UserError: as `rerun`.
    """
    if case.entry.harness != "lmms-eval":
        raise UserError(f"{case.entry.place} was run by {case.entry.harness}: only runs of lmms-eval can be repeated")
    words = shlex.split(harness_command(case.samples.results))
    options = _options(words[1:])
    config = case.samples.results.content.get("config") or {}
    arguments = model_arguments(config.get("model_args"))
    if not trust and (reason := _runs_others_code(options, arguments, case.entry.harness_task)):
        raise UserError(f"{case.entry.place} may run code of others ({shorten(reason)}): read it, then --trust")
    arguments = {key: unquote(value) if isinstance(value, str) else value for key, value in arguments.items()}
    # a preset also stands for a contrast, which is no part of the spec
    arguments = {key: value for key, value in expand_preset(arguments).items() if key not in (*FIELDS, "steering")}
    if case.record.get("spec"):
        (work / SPEC).write_text(_spec(case).to_yaml(), "utf-8")
        arguments["steering"] = str(work / SPEC)
    if case.record.get("answer_bias"):
        (work / "answer_bias.yaml").write_text(yaml.safe_dump(dict(case.record["answer_bias"])), "utf-8")
        arguments["answer_bias"] = str(work / "answer_bias.yaml")
    options |= {
        "model_args": join_model_args(arguments),
        "tasks": case.entry.harness_task,
        "limit": str(limit),
        "output_path": str(work / "run"),
    }
    if skipped := config.get("offset") or 0 if offset is None else offset:
        options["offset"] = str(skipped)
    given: list[str] = []
    for option, value in options.items():
        given += [f"--{option}"] if value is None else [f"--{option}", value]
    return [words[0], *given, "--log_samples"]


def _read(folder: Path) -> Case:
    parts = folder.resolve().parts
    if len(parts) < 5 or parts[-4] != ENTRIES:
        raise UserError(f"{str(folder)!r} is no entry: expected LEADERBOARD/{ENTRIES}/MODEL/TASK/SYSTEM")
    board = Path(*parts[:-4])
    entry, hashes = read_entry(folder.resolve(), board)
    return read_case(folder.resolve(), entry, hashes)


def _runs_others_code(options: Mapping[str, str | None], arguments: Mapping[str, Any], task: str) -> str:
    """What of an entry's command may run code that does not ship with this package or the harness; "" for nothing.

    Several wrappers of lmms-eval trust a checkpoint's code without being asked, so only our models are known not to.
    """
    if options.get("model") not in MODELS:
        return f"--model {options.get('model')}"
    if others := sorted(options.keys() - _OWN_OPTIONS):
        return f"--{others[0]}"
    # the harness takes the name of a folder, too, and runs the tasks in it
    if kind_of(task) is None or Path(task).exists():
        return f"the task {task}"
    trusts = str(arguments.get("trust_remote_code", False))
    return "" if trusts.lower() == "false" else f"trust_remote_code={trusts}"


def _options(words: list[str]) -> dict[str, str | None]:
    """Option ▸ value of the harness's command, None for a flag, without those that are given anew."""
    options: dict[str, str | None] = {}
    for number, word in enumerate(words):
        if word.startswith("--") and word not in ("--log_samples", "--limit", "--offset", "--output_path"):
            following = words[number + 1] if number + 1 < len(words) else "--"
            options[word[2:]] = None if following.startswith("--") else following
    return options


def _spec(case: Case) -> SteeringSpec:
    """The spec with the entry's own vectors. A control's vector is stored as it was added, so it needs no `control`."""
    spec = SteeringSpec.from_yaml(case.folder / SPEC)
    if lost := missing_vectors(spec, case.entry.vectors):
        raise UserError(f"{case.entry.place} lacks its vector {lost[0]}")
    if gates := [one.gate_vector for one in spec.interventions if one.gate_vector is not None]:
        raise UserError(f"{case.entry.place} lacks the vector of its gate, {gates[0]}")
    interventions = [
        replace(one, vector=str(case.folder / vector.file), control=None) if vector.file else one
        for one, vector in zip(spec.interventions, case.entry.vectors, strict=True)
    ]
    return SteeringSpec(tuple(interventions))


def _compared(case: Case, again: dict[int, str]) -> Rerun:
    stored = dict(zip(case.samples.keys.tolist(), case.answers.answer.index.tolist(), strict=True))
    both = [key for key in again if key in stored]
    texts = {key: case.answers.answer.values[stored[key]] for key in both}
    different = [key for key in both if texts[key] != again[key]]
    lines = [*_differences(different[:_SHOWN], texts, again)]
    if missing := len(again) - len(both):
        lines.append(f"{missing} of the questions are not among the entry's")
    lines.append(f"{len(both) - len(different)} of {len(both)} answers are the same: {case.entry.place}")
    return Rerun(len(both), len(both) - len(different), tuple(lines))


def _differences(keys: list[int], before: dict[int, str], after: dict[int, Any]) -> Iterator[str]:
    for key in keys:
        yield f"question {key >> 32}: {shorten(repr(before[key]))}, now {shorten(repr(after[key]))}"
