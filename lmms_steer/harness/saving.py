"""Save an evaluation of lmms-eval whole or not at all, and end with an error where it cannot be saved.

lmms-eval 0.7.3 writes its results first and then the samples, line by line, and only logs an error of the disk: a full
one leaves half a file and status 0. With these wrappers it writes into a temporary folder. Once everything is there,
the files are moved to their place, the results last: where there are results, their samples are whole.
"""

import functools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from lmms_steer._util.formatting import count_noun
from lmms_steer._util.io import check_writable, put_aside, write_atomically
from lmms_steer.errors import UserError

RESULTS_SUFFIX = "_results.json"
LOCK_FILE = ".saving.lock"
"""Held while an evaluation's files are moved to their place: until the last one is there they look damaged."""
_PENDING = "_lmms_steer_pending"
"""Attribute of a tracker: the files that are still to be moved, and the tasks whose samples are still to come."""


def check_output(cli_args: Any, name: str | None = None) -> None:
    """Check before an evaluation that its folder is writable, and put damaged evaluations in it aside.

    Args:
        cli_args: lmms-eval's own arguments; None if it is used as a library.
        name: what the run's folder is called; None for lmms-eval's own choice.

    Raises:
        UserError: for a folder that cannot be written to.
    """
    from lmms_eval.loggers.evaluation_tracker import GeneralConfigTracker, sanitize_model_name

    output = getattr(cli_args, "output_path", None)
    if not output:
        return
    check_writable(Path(output), "the output folder", "choose another with --output_path")
    name = GeneralConfigTracker._get_model_name(cli_args.model_args) if name is None else name
    folder = Path(output, sanitize_model_name(name))
    if not folder.is_dir():
        return
    with FileLock(folder / LOCK_FILE):
        for path in sorted(folder.glob(f"*{RESULTS_SUFFIX}")):
            if why := damage(path):
                for file in (*_samples_of(path), path):
                    put_aside(file, why)
        for path in sorted(folder.glob("*_samples_*.jsonl")):
            if not (folder / f"{path.name.partition('_samples_')[0]}{RESULTS_SUFFIX}").exists():
                put_aside(path, "it has no results file")


def damage(results: Path) -> str | None:
    """Why a results file and its samples are not whole; None where they are."""
    try:
        content = json.loads(results.read_bytes())
        # with an offset lmms-eval records more samples than there are
        recorded = {} if content.get("config", {}).get("offset") else content.get("n-samples", {})
        counts = {task: int(count["effective"]) for task, count in recorded.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return "the results are cut off"
    for path in _samples_of(results):
        task = path.name.removeprefix(f"{_stamp(results)}_samples_").removesuffix(".jsonl")
        if not _is_whole(path, counts.get(task, 0)):
            return f"the samples of {task} are cut off"
    return None


def saved_with_samples(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `EvaluationTracker.save_results_aggregated`: the results wait for the samples that follow them."""

    @functools.wraps(original)
    def save_results_aggregated(self: Any, results: Any, samples: Any, datetime_str: str) -> Any:
        if not self.output_path:
            return original(self, results=results, samples=samples, datetime_str=datetime_str)
        with _staged(self) as written:
            original(self, results=results, samples=samples, datetime_str=datetime_str)
            files = written()
            if len(files) != 1 or damage(next(iter(files))):
                raise _not_saved(self)
        waiting = set(results["configs"]) if samples is not None else set()
        setattr(self, _PENDING, ({}, waiting))
        return _publish_when_complete(self, files)

    return save_results_aggregated


def saved_with_results(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `EvaluationTracker.save_results_samples`: the last task's samples are moved with all others."""

    @functools.wraps(original)
    def save_results_samples(self: Any, task_name: str, samples: Any) -> Any:
        if not self.output_path or not hasattr(self, _PENDING):
            return original(self, task_name=task_name, samples=samples)
        with _staged(self) as written:
            original(self, task_name=task_name, samples=samples)
            files = written()
            if len(files) != 1 or not _is_whole(next(iter(files)), len(samples)):
                raise _not_saved(self)
        getattr(self, _PENDING)[1].discard(task_name)
        return _publish_when_complete(self, files)

    return save_results_samples


def _publish_when_complete(tracker: Any, files: dict[Path, bytes]) -> None:
    """Take over files; once no task's samples are missing, write all of them to their place."""
    pending, waiting = getattr(tracker, _PENDING)
    pending |= {path.name: content for path, content in files.items()}
    if waiting:
        return
    delattr(tracker, _PENDING)
    folder = Path(tracker.output_path, tracker.general_config_tracker.model_name_sanitized)
    check_writable(folder, "the output folder", "choose another with --output_path")
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(pending, key=lambda name: name.endswith(RESULTS_SUFFIX))
    with FileLock(folder / LOCK_FILE):
        try:
            for name in names:
                write_atomically(folder / name, pending[name])
        except UserError:
            # no results, no samples: they could be taken for a run that was cut off
            for name in names:
                (folder / name).unlink(missing_ok=True)
            raise
    # the log of lmms-eval names the temporary folder
    more = f", {count_noun(len(names) - 1, 'file')} of samples beside it" if len(names) > 1 else ""
    logging.getLogger(__name__).info("saved: %s%s", folder / names[-1], more)


@contextmanager
def _staged(tracker: Any) -> Iterator[Callable[[], dict[Path, bytes]]]:
    """Let a tracker write into a temporary folder inside the block; a function that reads what it wrote."""
    output = tracker.output_path
    try:
        staging = TemporaryDirectory(prefix="lmms-steer-")
    except OSError as error:
        raise _not_saved(tracker) from error
    with staging as folder:
        tracker.output_path = folder
        try:
            yield lambda: {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
        finally:
            tracker.output_path = output


def _not_saved(tracker: Any) -> UserError:
    where = os.environ.get("TMPDIR") or "the temporary folder"
    return UserError(
        f"lmms-eval could not write its results in {where}, from where they go to {tracker.output_path!r}: is that disk"
        " full? Its log has the error; TMPDIR names another folder"
    )


def _stamp(results: Path) -> str:
    return results.name.removesuffix(RESULTS_SUFFIX)


def _samples_of(results: Path) -> Iterable[Path]:
    return sorted(results.parent.glob(f"{_stamp(results)}_samples_*.jsonl"))


def _is_whole(samples: Path, count: int) -> bool:
    """Whether a file has at least so many lines, and the last one is whole."""
    lines, last = 0, b""
    with samples.open("rb") as file:
        for line in file:
            lines, last = lines + 1, line
    return lines >= count and (not lines or last.endswith(b"\n"))
