"""Faults of an entry of a board, each with the beginning of the line that it is refused with."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmms_steer.board.samples_file import MAX_ROWS
from tests.helpers.boards import shipped_vector


def change_samples(folder: Path, **columns: Callable[[Any], Any]) -> None:
    """Change columns of an entry's samples, and its hash in entry.json, as somebody who means it would."""
    path = folder / "samples.parquet"
    rows = pq.read_table(path).to_pydict()
    pq.write_table(pa.table({name: columns.get(name, list)(values) for name, values in rows.items()}), path)
    sign(folder)


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def sign(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "entry.json"]
    hashes = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    change_json(folder / "entry.json", lambda entry: entry.update(files=hashes))


def with_a_wrong_one(answers: list[str]) -> list[str]:
    first = answers.index("above")
    return [*answers[:first], "below", *answers[first + 1 :]]


def edit_an_answer(folder: Path) -> None:
    """Make the first right answer a wrong one; its score stays."""
    change_samples(folder, answer=with_a_wrong_one)


def edit_scores(folder: Path) -> None:
    change_samples(folder, score=lambda values: [1.0] * len(values))


def edit_answers_and_scores(folder: Path) -> None:
    change_samples(folder, answer=lambda values: ["above"] * len(values), score=lambda values: [1.0] * len(values))


def drop_questions(folder: Path) -> None:
    change_samples(
        folder, **dict.fromkeys(pq.read_schema(folder / "samples.parquet").names, lambda values: values[:90])
    )


def change_bytes(folder: Path) -> None:
    (folder / "spec.yaml").write_text((folder / "spec.yaml").read_text() + "\n")


def another_vector(folder: Path) -> None:
    (folder / "vectors" / "0.safetensors").write_bytes(shipped_vector("random:7").to_bytes())
    sign(folder)


def another_spec(folder: Path) -> None:
    (folder / "spec.yaml").write_text((folder / "spec.yaml").read_text().replace("layer: 2", "layer: 1"))
    sign(folder)


def another_task_version(folder: Path) -> None:
    change_json(folder / "results.json", lambda results: results.update(versions={_task(folder): 2.0}))
    sign(folder)


def chosen_on_the_test(folder: Path) -> None:
    chosen = {"provenance": {"chosen_on": _task(folder)}}
    change_json(folder / "results.json", lambda results: results["steering"].update(chosen))
    sign(folder)


def other_columns(folder: Path) -> None:
    pq.write_table(pa.table({"score": [1.0]}), folder / "samples.parquet")


def many_rows(folder: Path) -> None:
    table = pq.read_table(folder / "samples.parquet")
    columns = {name: pa.repeat(table.column(name)[0], MAX_ROWS + 1) for name in table.schema.names}
    pq.write_table(pa.table(columns), folder / "samples.parquet")


def bomb(folder: Path) -> None:
    """A text of 20 MB that zstd packs into a few kilobytes."""
    table = pq.read_table(folder / "samples.parquet").slice(0, 1)
    table = table.set_column(table.schema.names.index("answer"), "answer", pa.array(["x" * 20_000_000]))
    pq.write_table(table, folder / "samples.parquet", compression="zstd")


def study_bomb(folder: Path) -> None:
    """A study whose only cell's name of 20 MB is packed into a few kilobytes."""
    (folder / "study").mkdir(exist_ok=True)
    cell = {"vector": "x" * 20_000_000, "layer": 2, "alpha": 0.25, "tokens": "image", "n": 1, "gain": 0.0}
    pq.write_table(
        pa.Table.from_pylist([{**cell, "dropped": False}]), folder / "study" / "cells.parquet", compression="zstd"
    )
    sign(folder)


def deep_json(folder: Path) -> None:
    (folder / "results.json").write_text("[" * 100_000)


def huge_json(folder: Path) -> None:
    with (folder / "results.json").open("ab") as file:
        file.truncate(1 << 30)


def newer_shape(folder: Path) -> None:
    change_json(folder / "results.json", lambda results: results.update(results=[{"task": _task(folder)}]))


def another_metric(folder: Path) -> None:
    """Name a score that the task does not have, so that nothing could be recomputed."""
    for entry in (folder, folder.parent / "baseline"):
        change_json(entry / "entry.json", lambda content: content.update(metric="accuracy"))


def another_direction(folder: Path) -> None:
    """Say that less is better."""
    better = {_task(folder): {"acc": False}}
    change_json(folder / "results.json", lambda results: results.update(higher_is_better=better))
    sign(folder)


def another_model(folder: Path) -> None:
    """File the run under a larger model."""
    change_json(folder / "entry.json", lambda entry: entry.update(model="tiny-paligemma2-10b"))
    target = folder.parents[2] / "tiny-paligemma2-10b" / _task(folder) / folder.name
    target.parent.mkdir(parents=True)
    folder.rename(target)


def huge_scores(folder: Path) -> None:
    """Scores whose sum is infinite, and no mean to compare with."""
    change_json(folder / "results.json", lambda results: results["results"].update({_task(folder): {}}))
    change_samples(folder, score=lambda values: [1e308] * len(values))


def task_of_its_own(folder: Path) -> None:
    """Say that the harness asked another task than the entry's."""
    change_json(folder / "entry.json", lambda entry: entry.update(harness_task=f"{entry['task']}_x"))


def _task(folder: Path) -> str:
    return str(json.loads((folder / "entry.json").read_text())["task"])


REFUSED: dict[Callable[[Path], None], str] = {
    edit_an_answer: "scores: 1 of 100 scores are not those of the answers, first of question 0: 1, recomputed 0",
    edit_scores: "scores: the scores' mean is 1.0000, the results file says 0.7000",
    edit_answers_and_scores: "scores: the scores' mean is 1.0000, the results file says 0.7000",
    drop_questions: "scores: 90 answers, the results file counts 100; pairing: other samples: 90 of its 90",
    change_bytes: "files: changed since it was added: spec.yaml",
    another_vector: "vectors: vectors/0.safetensors is not tiny-gemma2/spatial/mean_shift: sha256",
    another_spec: "vectors: spec.yaml is not the spec of the run",
    another_task_version: "pairing: other prompts: version of the task 2.0, the baseline's 1.0",
    chosen_on_the_test: "choice: layer, alpha and tokens were chosen on questions that it is tested on",
    another_direction: "pairing: its results file says that less is better where the baseline's says more",
    huge_scores: "scores: the sum of the scores is no finite number",
}
"""Faults that a check finds."""
UNREADABLE: dict[Callable[[Path], None], str] = {
    other_columns: "samples.parquet cannot be read: there is no column 'target'",
    many_rows: "samples.parquet cannot be read: 200001 rows, expected 1 to 200000",
    bomb: "samples.parquet cannot be read: a column is packed with ZSTD, expected snappy",
    deep_json: "results.json is cut off or no results file: nested too deeply",
    huge_json: "results.json is larger than 8 MiB",
    newer_shape: "results.json is cut off or no results file: it holds no results",
    task_of_its_own: "entry.json: harness_task tiny_spatial_x is not tiny_spatial or its prompt",
}
"""Faults of files that cannot be read."""
