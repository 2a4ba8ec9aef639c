"""A leaderboard's rows as records for other programs: CSV and Parquet files with unrounded numbers."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from lmms_steer._util.io import open_for_writing
from lmms_steer.comparison.control_ranks import ControlRank
from lmms_steer.comparison.leaderboard import LeaderboardRow, OtherReading
from lmms_steer.comparison.provenance import RunProvenance, run_provenance


@dataclass(frozen=True)
class LeaderboardRecord:
    """A row of the CSV and Parquet files: unrounded numbers, with the commands and hashes behind them.

    The fields are the columns, in their order. Those up to `refused` are `LeaderboardRow`'s; `blank_…` are its row with
    blank images. The others are `RunProvenance`'s; a group or tag has several values, separated by spaces.

    Attributes:
        random_vectors, random_as_good, random_p: a `ControlRank`'s number of random vectors, `as_good` and `p`; empty
            for a row without a rank.
        vectors: JSON, name ▸ sha256.
        readings: JSON, name of `READINGS` ▸ `OtherReading`'s fields.
        differences: JSON, what differs from the baseline: a list of objects with kind, key, baseline and run.
    """

    task: str
    scope: str
    system: str
    role: str
    n: int
    images: int | None
    score: float
    gain: float
    low: float
    high: float
    p: float
    p_holm: float
    p_exact: float
    test: str
    fixed: int | None
    broken: int | None
    unparsed: float
    empty: float
    yes: float
    yes_labels: float
    words: float
    recall: float
    divergence: float
    blank_score: float
    blank_gain: float
    blank_low: float
    blank_high: float
    random_vectors: int | None
    random_as_good: int | None
    random_p: float
    seconds: float
    refused: str
    command: str
    spec: str
    spec_sha256: str
    samples_sha256: str
    results_sha256: str
    metric: str
    vectors: str
    readings: str
    differences: str


def leaderboard_records(rows: Sequence[LeaderboardRow], ranks: Sequence[ControlRank] = ()) -> list[LeaderboardRecord]:
    """All rows with their provenance, and their ranks among random vectors."""
    rank_of = {id(rank.row): rank for rank in ranks}
    return [_record(row, rank_of.get(id(row))) for row in rows]


def _record(row: LeaderboardRow, rank: ControlRank | None) -> LeaderboardRecord:
    runs = [run_provenance(run) for run in row.samples]

    def joined(value: Callable[[RunProvenance], str]) -> str:
        return " ".join(dict.fromkeys(map(value, runs)))

    return LeaderboardRecord(
        task=row.task,
        scope=row.scope,
        system=row.system,
        role=row.role,
        n=row.n,
        images=row.images,
        score=row.score,
        gain=row.gain,
        low=row.low,
        high=row.high,
        p=row.p,
        p_holm=row.p_holm,
        p_exact=row.p_exact,
        test=row.test,
        fixed=row.fixed,
        broken=row.broken,
        unparsed=row.unparsed,
        empty=row.empty,
        yes=row.yes,
        yes_labels=row.yes_labels,
        words=row.words,
        recall=row.recall,
        divergence=row.divergence,
        blank_score=row.blank.score if row.blank else math.nan,
        blank_gain=row.blank.gain if row.blank else math.nan,
        blank_low=row.blank.low if row.blank else math.nan,
        blank_high=row.blank.high if row.blank else math.nan,
        random_vectors=len(rank.gains) if rank else None,
        random_as_good=rank.as_good if rank else None,
        random_p=rank.p if rank else math.nan,
        seconds=row.seconds,
        refused=row.refused,
        command=joined(lambda run: run.command),
        spec=joined(lambda run: run.spec),
        spec_sha256=joined(lambda run: run.spec_sha256),
        samples_sha256=joined(lambda run: run.samples_sha256),
        results_sha256=joined(lambda run: run.results_sha256),
        metric=joined(lambda run: run.metric),
        vectors=json.dumps({name: sha256 for run in runs for name, sha256 in run.vectors.items()}),
        readings=json.dumps({name: _finite_fields(reading) for name, reading in row.readings.items()}),
        differences=json.dumps([vars(one) for one in row.differences]),
    )


def write_csv(records: Sequence[LeaderboardRecord], path: Path) -> None:
    """Write all records, unrounded.

    Raises:
        UserError: if the file cannot be written.
    """
    with open_for_writing(path) as file:
        writer = csv.DictWriter(file, [column.name for column in fields(LeaderboardRecord)])
        writer.writeheader()
        for record in records:
            values = vars(record)
            writer.writerow({key: "" if str(value) == "nan" else value for key, value in values.items()})


def write_parquet(records: Sequence[LeaderboardRecord], path: Path) -> None:
    """Write the columns of the CSV with their types.

    Raises:
        UserError: if the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    open_for_writing(path).close()
    pq.write_table(pa.Table.from_pylist([vars(record) for record in records]), path)


def _finite_fields(reading: OtherReading) -> dict[str, float]:
    return {name: value for name, value in vars(reading).items() if math.isfinite(value)}
