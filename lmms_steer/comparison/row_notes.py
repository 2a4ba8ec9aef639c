"""The lines below a leaderboard: what differs from the baseline, what has no interval, and unparsed answers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lmms_steer._util.formatting import format_points
from lmms_steer.comparison.leaderboard import LeaderboardRow
from lmms_steer.comparison.provenance import selection_warnings
from lmms_steer.comparison.settings import OTHER, Difference, describe
from lmms_steer.comparison.studies import read_searched_vectors
from lmms_steer.comparison.systems import Comparison
from lmms_steer.scoring.unparsed import WARNED, unparsed_warning
from lmms_steer.statistics import TIE

_LISTED = 4
"""Names that a line lists before it says how many more there are."""


def difference_lines(rows: Iterable[LeaderboardRow]) -> list[str]:
    """Say what differs between the compared systems and the baseline, one line for systems that differ alike."""
    compared = [row for row in rows if row.scope == "task" and not row.refused]
    return [
        *_grouped(compared, _decisive, "different: {where}: {what}"),
        *_grouped(
            compared,
            lambda row: describe([one for one in row.differences if one.kind == OTHER and not one.unknown]),
            "also different: {where}: {what}",
        ),
        *_grouped(
            compared,
            lambda row: ", ".join(_unknown_name(one) for one in row.differences if one.unknown),
            "not recorded by either run, so not compared: {what}: {where}",
        ),
    ]


def single_image_lines(rows: Iterable[LeaderboardRow]) -> list[str]:
    """Name the tasks whose questions all show one image, which says nothing of other images."""
    tasks = dict.fromkeys(row.task for row in rows if row.images == 1)
    return [f"no interval and no test on {_listed(tasks)}: all of a task's questions show one image"] if tasks else []


def comparison_warnings(comparison: Comparison, rows: list[LeaderboardRow], studies: Sequence[Path]) -> list[str]:
    """Return all warnings of a comparison: runs that were left out, choices made on the test, unread answers.

    Args:
        comparison: its systems.
        rows: of its leaderboard.
        studies: folders of searches.

    Raises:
        UserError: for a study that cannot be read.
    """
    return [
        *(f"WARNING: left out: {line}" for line in comparison.left_out),
        *selection_warnings(comparison.systems.values(), read_searched_vectors(studies)),
        *unparsed_warnings(rows),
        *_blind_gains(rows),
    ]


def unparsed_warnings(rows: list[LeaderboardRow]) -> list[str]:
    """Warn of tasks with many unread answers, and of gains that may come from the format of the answers."""
    of_tasks = [row for row in rows if row.scope == "task"]
    lines = []
    for task in dict.fromkeys(row.task for row in of_tasks):
        shares = {row.system: row.unparsed for row in of_tasks if row.task == task}
        warning = unparsed_warning(task, shares)
        lines += [f"WARNING: {warning}"] if warning else []
    return [*lines, *_format_gains(of_tasks)]


def _format_gains(rows: list[LeaderboardRow]) -> Iterator[str]:
    baseline = {row.task: row.unparsed for row in rows if row.role == "baseline"}
    for row in rows:
        before = baseline.get(row.task, 0.0)
        fewer_unread = before - row.unparsed
        if before >= WARNED and TIE < row.direction * row.gain <= fewer_unread + TIE:
            yield (
                f"WARNING: {row.task}: the gain of {row.system} ({format_points(row.gain * row.scale)}) may be one of"
                f" format: it leaves {format_points(100 * fewer_unread).removeprefix('+')} points fewer answers unread"
                " than the baseline"
            )


def _blind_gains(rows: list[LeaderboardRow]) -> Iterator[str]:
    """Warn of gains beyond chance of which at least half is there with grey images, too."""
    for row in rows:
        better = row.direction
        certain = min(better * row.low, better * row.high) > 0
        if row.role != "control" and row.blank and certain and better * row.blank.gain >= better * row.gain / 2 - TIE:
            with_images, without = (format_points(one.gain * row.scale) for one in (row, row.blank))
            yield f"WARNING: {row.task}: {row.system} gains {with_images} with the images and {without} with grey ones"


def _decisive(row: LeaderboardRow) -> str:
    decisive = [one for one in row.differences if one.decisive]
    # expected, so the page and the files give the details
    has_other_prompt = any(run.task != row.task for run in row.samples)
    if has_other_prompt and decisive and all(one.questions for one in decisive):
        return "other prompts"
    return describe(decisive)


def _unknown_name(one: Difference) -> str:
    return one.key.replace("_", " ")


def _grouped(rows: list[LeaderboardRow], text: Callable[[LeaderboardRow], str], line: str) -> list[str]:
    """Write one line for all systems with the same text on the same tasks."""
    tasks: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if what := text(row):
            tasks.setdefault((row.system, what), []).append(row.task)
    systems: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (system, what), names in tasks.items():
        systems.setdefault((what, tuple(names)), []).append(system)
    return [line.format(where=f"{_listed(names)} on {_listed(on)}", what=what) for (what, on), names in systems.items()]


def _listed(names: Iterable[str]) -> str:
    quoted = [repr(name) if "," in name else name for name in names]
    first, more = quoted[:_LISTED], quoted[_LISTED:]
    return f"{', '.join(first)} and {len(more)} more" if more else ", ".join(first)
