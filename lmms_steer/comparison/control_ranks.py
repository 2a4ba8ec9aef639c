"""Rank a vector's gain among the gains of random vectors at the same place, to test whether the concept matters.

The p-value of a gain tells whether steering changed the score; random vectors of the same norm may change it as much.
If the vector were one of them, every rank of its gain would be equally likely. So the rank is a Monte Carlo
test (Davison and Hinkley 1997, Bootstrap Methods and their Application, section 4.2).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmms_steer._util.formatting import format_p, format_points
from lmms_steer.comparison.leaderboard import LeaderboardRow
from lmms_steer.errors import UserError
from lmms_steer.statistics import TIE
from lmms_steer.steering.spec import SteeringSpec

FEWEST = 4
"""Minimum number of random vectors for a rank to be reported; with fewer, p cannot be below 1/4."""


@dataclass(frozen=True, slots=True)
class ControlRank:
    """A system's gain among those of random vectors of the same norms, at the same layers, alpha and tokens.

    Attributes:
        row: the system's.
        gains: of the random vectors, the best first, in the unit of `row.gain`.
        as_good: how many of them are at least as good as the system's.
    """

    row: LeaderboardRow
    gains: tuple[float, ...]
    as_good: int

    @property
    def p(self) -> float:
        """One-sided Monte Carlo p-value: (1 + `as_good`) / (1 + number of random vectors)."""
        return (1 + self.as_good) / (1 + len(self.gains))

    def __str__(self) -> str:
        row, n, as_good = self.row, len(self.gains), self.as_good
        gain, best, worst = (format_points(one * row.scale) for one in (row.gain, self.gains[0], self.gains[-1]))
        found = f"{as_good} of {n} at the same place {'is' if as_good == 1 else 'are'} at least as good as {row.system}"
        return (
            f"random vectors: {row.task}: {found} (its gain {gain}, theirs {worst} to {best}): p ="
            f" {1 + as_good}/{1 + n} = {format_p(self.p)}"
        )


def control_ranks(rows: Sequence[LeaderboardRow]) -> Iterator[ControlRank]:
    """Rank each steered system, on each task, group and tag, that has at least `FEWEST` random vectors beside it.

    Systems that are not compared with the baseline are left out.
    """
    compared = [row for row in rows if not math.isnan(row.gain)]
    controls: dict[tuple[str, str], list[tuple[_Record, float]]] = {}
    for row in compared:
        if row.role == "control":
            controls.setdefault((row.scope, row.task), []).append((_Record(row), row.gain))
    for row in compared:
        if row.role == "steered":
            own, better = _Record(row), row.direction
            there = controls.get((row.scope, row.task), [])
            # a random vector that was run twice counts once
            beside = {control.vectors: gain for control, gain in there if control.is_random_beside(own)}
            if len(beside) >= FEWEST:
                gains = sorted(beside.values(), key=lambda gain: -better * gain)
                as_good = sum(better * gain >= better * row.gain - TIE for gain in gains)
                yield ControlRank(row, tuple(gains), as_good)


class _Record:
    """A row's steering record: the hashes of its vectors, and the settings that must be the same for a rank."""

    def __init__(self, row: LeaderboardRow) -> None:
        record = row.samples[0].results.steering
        vectors = record.get("vectors") or []
        self.vectors = tuple(vector["sha256"] for vector in vectors)
        self.replaced = tuple(_norms_of(vector) for vector in vectors)
        self.rest = [
            _place(record.get("spec") or ""),
            # with another prompt it is `X_prompted`
            tuple(run.task for run in row.samples),
            *(record.get(key) for key in ("answer_bias", "image", "contrast")),
        ]

    def is_random_beside(self, other: "_Record") -> bool:
        """Whether the records are equal except that random vectors replace those of `other`."""
        pairs = zip(self.vectors, self.replaced, other.vectors, strict=False)
        return (
            len(self.vectors) == len(other.vectors)
            and any(self.replaced)
            and all(theirs in (mine, replaced) for mine, replaced, theirs in pairs)
            and self.rest == other.rest
        )


def _norms_of(vector: dict[str, Any]) -> str:
    """The hash of the vector that a random one replaces; "" for any other vector."""
    provenance = vector.get("provenance")
    settings = provenance.get("settings") if isinstance(provenance, dict) else None
    return str(settings.get("norms_of", "")) if isinstance(settings, dict) else ""


def _place(spec: str) -> str:
    """A spec without the names of its vectors and controls; unchanged if this version cannot parse it."""
    try:
        interventions = SteeringSpec.parse(spec).interventions
    except UserError:
        return spec
    return "; ".join(str(replace(one, vector="v", control=None)) for one in interventions)
