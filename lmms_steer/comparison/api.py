"""`lmms_steer.compare`: runs compared with a baseline, as one object with a table, figures and files."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_steer._util.formatting import count_noun
from lmms_steer._util.html import html_table
from lmms_steer._util.io import write_text
from lmms_steer.comparison import records, tables
from lmms_steer.comparison.control_ranks import ControlRank, control_ranks
from lmms_steer.comparison.leaderboard import LeaderboardRow, build_leaderboard
from lmms_steer.comparison.row_notes import comparison_warnings
from lmms_steer.comparison.systems import Comparison, System, read_comparison
from lmms_steer.errors import UserError, unknown_name

if TYPE_CHECKING:
    import pandas

IMAGE_SOURCES = ("ours", "all", "none")


@dataclass(frozen=True, repr=False, eq=False)
class Leaderboard:
    """Systems compared with a baseline on the same questions. In a notebook it is shown as a table.

    Attributes:
        rows: task by task, then groups and tags.
        comparison: the systems that were read, and what was left out.
        warnings: what a reader must not overlook.
        studies: folders of searches.
    """

    rows: list[LeaderboardRow]
    comparison: Comparison
    warnings: tuple[str, ...] = ()
    studies: tuple[Path, ...] = ()

    @property
    def systems(self) -> dict[str, System]:
        """Name ▸ system, the baseline first."""
        return self.comparison.systems

    @cached_property
    def ranks(self) -> list[ControlRank]:
        """The ranks of systems among random vectors at the same place."""
        return list(control_ranks(self.rows))

    @cached_property
    def _records(self) -> list[records.LeaderboardRecord]:
        """All rows as they are written to CSV and Parquet files."""
        return records.leaderboard_records(self.rows, self.ranks)

    def to_pandas(self) -> "pandas.DataFrame":
        """All rows as a data frame: unrounded shares, with the commands and hashes behind them."""
        import pandas

        return pandas.DataFrame([vars(record) for record in self._records])

    def plot(self, kind: str = "gains") -> Any:
        """Draw it as a `matplotlib.figure.Figure`, which a notebook shows.

        Args:
            kind: `gains`, with their intervals; `table`, systems by tasks; `ranks`, among those of random
                vectors at the same place.

        Raises:
            UserError: for another kind, or where no run is compared with the baseline.
        """
        from lmms_steer.comparison.figures import gains_figure

        return gains_figure(self.rows, kind)

    def lines(self) -> Iterator[str]:
        """Systems that are not compared, differences, ranks among random vectors, and warnings, a line each."""
        yield from self._notes
        yield from (f"left out: {line}" for line in self.comparison.no_runs)
        yield from self.warnings

    @cached_property
    def _notes(self) -> list[str]:
        return [*tables.note_lines(self.rows), *map(str, self.ranks)]

    def write(
        self,
        *,
        html: str | Path | None = None,
        markdown: str | Path | None = None,
        latex: str | Path | None = None,
        csv: str | Path | None = None,
        parquet: str | Path | None = None,
        samples: int = 120,
        pictures: str = "ours",
        include_path: str | Path | None = None,
    ) -> list[str]:
        """Write files.

        Args:
            html: the page.
            markdown, latex: the table.
            csv, parquet: all numbers, unrounded, with the commands and hashes behind them.
            samples: the largest number of questions of a task on the page.
            pictures: the images on the page: of our tasks if their data is on this machine (ours), of every task that
                loads (all), or none.
            include_path: a folder of the user's own tasks, which count as ours for images.

        Returns:
            Notes for the user about the page.

        Raises:
            UserError: for an unknown option's value, or a file that cannot be written.
        """
        check_page_options(pictures, include_path)
        if markdown:
            write_text(tables.markdown(self.rows, (*self.warnings, *self._notes)), Path(markdown))
        if latex:
            write_text(tables.latex(self.rows, (*self.warnings, *self._notes)), Path(latex))
        if csv:
            records.write_csv(self._records, Path(csv))
        if parquet:
            records.write_parquet(self._records, Path(parquet))
        if not html:
            return []
        # with jinja2, PIL and scoring behind it, which the tables do not need
        from lmms_steer.comparison.page import write_page

        notes = write_page(
            Path(html),
            self.systems,
            self.rows,
            self.studies,
            most=samples,
            pictures=pictures,
            warnings=self.warnings,
            include_path=Path(include_path) if include_path else None,
            ranks=self.ranks,
        )
        return list(notes)

    def __str__(self) -> str:
        return "\n".join((tables.plain_text(self.rows), *self.lines()))

    def __repr__(self) -> str:
        tasks = {row.task for row in self.rows if row.scope == "task"}
        warned = f"; {count_noun(len(self.warnings), 'warning')}" if self.warnings else ""
        size = f"{count_noun(len(self.systems), 'system')} on {count_noun(len(tasks), 'task')}"
        return f"Leaderboard of {size}, baseline {next(iter(self.systems))!r}{warned}"

    def _repr_html_(self) -> str:
        titles, rows = tables.text_table(self.rows)
        return html_table(titles, rows, repr(self), (tables.caption(self.rows), *self.lines()))


def compare(
    runs: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
    baseline: str | None = None,
    studies: Iterable[str | Path] = (),
    metric: str | None = None,
    allow_different: Collection[str] = (),
) -> Leaderboard:
    """Compare runs with a baseline, question by question, as `lmms-steer compare` does.

    Args:
        runs: folders with a harness's output, NAME=FOLDER, or a mapping from names to folders.
        baseline: the name or folder of a run; default: the run named `baseline`, else the only unsteered one.
        studies: folders of searches, for warnings about what they chose on, and for their maps on the page.
        metric: the score to compare by; default: each task's own.
        allow_different: kinds of settings that may differ from the baseline (`settings.DECISIVE`); rows say what does.

    Raises:
        UserError: for runs that cannot be read or compared.
    """
    if isinstance(runs, Mapping):
        folders = [f"{name}={_folder(folder)}" for name, folder in runs.items()]
    else:
        folders = [_folder(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    allowed = [allow_different] if isinstance(allow_different, str) else allow_different
    searched = tuple(Path(study) for study in ([studies] if isinstance(studies, str | Path) else studies))
    comparison = read_comparison(folders, baseline, metric)
    rows = build_leaderboard(comparison.systems, allowed)
    return Leaderboard(rows, comparison, tuple(comparison_warnings(comparison, rows, searched)), searched)


def _folder(run: object) -> str:
    """The folder of a run.

    Raises:
        UserError: for something else, such as the results that lmms-eval returns, which say nothing of single answers.
    """
    if not isinstance(run, str | PathLike):
        raise UserError(
            f"a run is the folder of an evaluation with logged answers (lmms-eval --output_path FOLDER --log_samples);"
            f" got a {type(run).__name__}"
        )
    return str(run)


def check_page_options(pictures: str, include_path: str | Path | None) -> None:
    """Check the options of the page, for a caller that has not compared yet.

    Raises:
        UserError: for a value that is not known, or a folder that is not there.
    """
    if pictures not in IMAGE_SOURCES:
        raise unknown_name("--pictures", pictures, IMAGE_SOURCES)
    if include_path is not None and not Path(include_path).is_dir():
        raise UserError(f"--include_path {include_path}: no such folder")
