"""The demo's table in a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from lmms_steer.figures import words


def gain(row: dict[str, Any]) -> str:
    """`+1.2 [-0.4, +2.8]` in points."""
    told, low, high = (words.points(100 * row[key]) for key in ("gain", "low", "high"))
    return f"{told} [{low}, {high}]"


def verdict(rows: list[dict[str, Any]], task: str, split: str) -> str:
    """One plain sentence: is the concept's vector better than the baseline, and than the random ones?"""
    mine = {row["system"]: row for row in rows if row["task"] == task and row["split"] == split}
    shift = mine["mean_shift"]
    randoms = [row["gain"] for name, row in mine.items() if name.startswith("random")]
    if shift["gain"] > 0 and shift["low"] > 0 and shift["gain"] > max(randoms, default=0.0):
        return "mean shift gains (uncorrected), and more than each of the random vectors"
    if shift["gain"] > 0 and shift["low"] > 0:
        return "mean shift gains, but not more than the best random vector: no evidence for the concept"
    if shift["high"] < 0:
        return "mean shift loses (its interval, uncorrected, is below 0)"
    return "no difference that this many questions can show: a null result"


def print_table(rows: list[dict[str, Any]]) -> None:
    """Accuracy, paired gain with its 95% interval, and McNemar's p, on test and out of distribution."""
    table = Table(
        title=f"tiny-paligemma2 on tiny_world, {rows[0]['n']} questions a cell; gains in points against the baseline"
    )
    for name in ("task", "system", "test", "gain [95%]", "p", "ood", "gain [95%]", "p"):
        table.add_column(name, justify="left" if name in ("task", "system") else "right", no_wrap=True)
    shown = ""
    for row in (r for r in rows if r["split"] == "test"):
        ood = next(r for r in rows if (r["task"], r["system"], r["split"]) == (row["task"], row["system"], "ood"))
        if shown and row["task"] != shown:
            table.add_section()
        first = row["task"] if row["task"] != shown else ""
        shown = row["task"]
        cells = []
        for part in (row, ood):
            compared = row["system"] != "baseline"
            cells += [f"{part['accuracy']:.3f}", gain(part) if compared else "", f"{part['p']:.3f}" if compared else ""]
        table.add_row(first, row["system"], *cells)
    console = Console(width=None if Console().is_terminal else 110)
    console.print(table)
    for task in dict.fromkeys(row["task"] for row in rows):
        for split in ("test", "ood"):
            console.print(f"{task}, {split}: {verdict(rows, task, split)}", highlight=False)
    console.print("Intervals and p are not corrected for the number of comparisons.")
    console.print("The tiny model shows the method; it is no evidence about real models.")
