"""How the cells of a leaderboard's row are written: scores, gains, shares and p-values as text."""

import math
from collections.abc import Sequence
from dataclasses import replace

from lmms_steer._util.formatting import count_noun, format_number, format_p, format_points, format_share
from lmms_steer.comparison.leaderboard import LeaderboardRow
from lmms_steer.comparison.samples import READINGS

SIGNIFICANT = 0.05
_SMALL = 10
"""Scores below it that are no shares, such as log-likelihoods, have three decimals."""


def format_score(row: LeaderboardRow) -> str:
    """`84.0`; with three decimals where scores are small numbers that are no shares."""
    return format_number(row.score * row.scale, decimals=_decimals(row))


def format_gain(row: LeaderboardRow) -> str:
    """`+1.2 [-0.3, +2.7]`; `[-∞, +∞]` where all questions show one image; "" where there is no gain."""
    if math.isnan(row.gain):
        return ""
    ends = (value * row.scale for value in (row.gain, row.low, row.high))
    gain, low, high = (format_number(value, "+", _decimals(row)) for value in ends)
    return f"{gain} [{low}, {high}]"


def _decimals(row: LeaderboardRow) -> int:
    return 3 if row.scale == 1 and abs(row.score) < _SMALL else 1


def format_blank(row: LeaderboardRow) -> str:
    """`49.0, +0.5 [-0.4, +1.4]`: score and gain with blank images; "" where no run had them."""
    if row.blank is None:
        return ""
    return ", ".join(filter(None, (format_score(shown := replace(row.blank, scale=row.scale)), format_gain(shown))))


def format_reading(row: LeaderboardRow, name: str) -> str:
    """`81.2 (+0.4), 9 differ`: score, gain and number of answers that differ by another reading; "" without one."""
    if name not in row.readings:
        return ""
    reading = row.readings[name]
    points = "" if math.isnan(reading.gain) else f" ({format_points(reading.gain * row.scale)})"
    count = reading.lost + reading.won
    return f"{format_number(reading.score * row.scale)}{points}{f', {count} differ' if count else ''}"


def shown_readings(rows: Sequence[LeaderboardRow]) -> dict[str, str]:
    """Name ▸ title of the readings that get a column; the paper's scorer only where it scores an answer differently."""
    found = [name for name in READINGS if any(name in row.readings for row in rows)]
    differs = any(row.readings["paper"].lost + row.readings["paper"].won for row in rows if "paper" in row.readings)
    titles = {name: "paper's scorer" if name == "paper" else f"{name} reading" for name in found}
    return {name: title for name, title in titles.items() if name != "paper" or differs}


def format_holm(row: LeaderboardRow) -> str:
    """The corrected p, with an asterisk if it is significant."""
    return format_p(row.p_holm) + ("*" if row.p_holm < SIGNIFICANT else "")


def format_fixed_broken(row: LeaderboardRow) -> str:
    """`15 / 5`: questions fixed and broken; "" for a system that is not compared."""
    return "" if row.fixed is None else f"{row.fixed} / {row.broken}"


def format_yes(row: LeaderboardRow) -> str:
    """`62.0% (of 50.0%)`: the share of answers that say yes, and of labels; "" where the answers are not yes or no."""
    return "" if math.isnan(row.yes) else f"{format_share(row.yes)} (of {format_share(row.yes_labels)})"


def format_words(row: LeaderboardRow) -> str:
    """`42.3`: the mean length of an answer in words; "" where answers are no text."""
    return "" if math.isnan(row.words) else format_number(row.words)


def format_divergence(row: LeaderboardRow) -> str:
    """`0.31`: nats; "" where it was not measured."""
    return "" if math.isnan(row.divergence) else "∞" if math.isinf(row.divergence) else f"{row.divergence:.2f}"


def format_questions(row: LeaderboardRow) -> str:
    """`200`, and the number of images if questions share them: `200 (50 images)`."""
    return f"{row.n}" if row.images is None else f"{row.n} ({count_noun(row.images, 'image')})"
