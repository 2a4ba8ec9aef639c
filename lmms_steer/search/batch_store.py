"""A study's rungs, batch by batch. What is done is on disk at once.

One file a batch holds each cell's score on each question. Several processes, on one machine or on several with a common
disk, share a study: each takes batches that nobody has, and waits for the others at the end of a rung. A process that
dies leaves no half of a batch, and its lock falls with it.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from tqdm import tqdm

from lmms_steer._util.io import write_atomically
from lmms_steer.errors import UserError
from lmms_steer.models.batches import ShrinkingRunner
from lmms_steer.search.measure import Measurer
from lmms_steer.search.plan import Cell
from lmms_steer.search.questions import Question
from lmms_steer.search.selection import Floats
from lmms_steer.search.strategies import Rung

PAUSE = 0.2
CHECK_EVERY = 8
"""Of so many batches one is checked against the hooks."""


Row = tuple[list[float], float, list[float], float, list[float], str]
"""Of one question: each cell's score, the unsteered one; the same of whether it was unparsed; the unsteered logits of
its answers; why it was hooked."""


class BatchStore:
    """
    Args:
        folder: of the study.
        measure: what asks the model.
        asked: all questions, in the study's order.
        batch_size: questions a batch.
        bar: advances by a cell's answers to a question each.

    Attributes:
        answers: question ▸ the unsteered logits of its answers, of all that were read.
        unparsed: cell, None for none ▸ 1 where no answer could be read, float [questions]; nan where nothing says so.
        hooked: why batches were not replayed, once for each.
        replayed: how many were.
    """

    def __init__(
        self, folder: Path, measure: Measurer, asked: Sequence[Question], batch_size: int, bar: "tqdm[Any]"
    ) -> None:
        self.folder, self.measure, self.asked, self.batch_size, self.bar = folder, measure, asked, batch_size, bar
        self.answers: dict[int, list[float]] = {}
        self.unparsed: dict[Cell | None, Floats] = {}
        self.hooked: list[str] = []
        self.fitting = ShrinkingRunner()
        self.replayed = 0
        for name in ("batches", "locks"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def __call__(self, number: int, rung: Rung) -> tuple[Floats, Floats]:
        """A rung's scores [cells, questions] and the unsteered ones [questions], whoever measured them."""
        batches = list(self._batches(rung.questions))
        self.bar.set_postfix(cells=len(rung.cells), rung=number)
        open_batches = dict(enumerate(batches))
        while open_batches:
            before = len(open_batches)
            for place, batch in list(open_batches.items()):
                if self._done(number, place, batch, rung):
                    del open_batches[place]
                    self.bar.update(len(batch) * len(rung.cells))
            if len(open_batches) == before:
                time.sleep(PAUSE)
        return self._read(number, batches, rung)

    @property
    def refuted(self) -> bool:
        """Whether some of what was read was replayed, though a replay has been found wrong."""
        return self.replayed > 0 and self.measure.wrong.is_file()

    def forget_replayed(self) -> None:
        """Remove the batches that were not hooked."""
        for path in sorted((self.folder / "batches").glob("*.parquet")):
            with contextlib.suppress(FileNotFoundError):
                if not pq.read_schema(path).metadata[b"hooked"]:
                    path.unlink()

    def _done(self, number: int, place: int, batch: Sequence[int], rung: Rung) -> bool:
        """Whether a batch is on disk, by now."""
        path = self._path(number, place)
        if path.is_file():
            return True
        try:
            with FileLock(self.folder / "locks" / path.stem, blocking=False):
                if not path.is_file():
                    self._measure(path, batch, rung, check=place % CHECK_EVERY == 0)
                return True
        except Timeout:
            return False

    def _measure(self, path: Path, batch: Sequence[int], rung: Rung, check: bool) -> None:
        rows = self.fitting.run(batch, partial(self._rows, rung.cells, check))
        scores, base, unparsed, base_unparsed, answers, hooked = zip(*rows, strict=True)
        columns = {
            "question": pa.array(list(batch), pa.int32()),
            "doc_id": pa.array([self.asked[i].doc_id for i in batch], pa.int64()),
            "right": pa.array([self.asked[i].right for i in batch], pa.int32()),
            "answers": pa.array(answers, pa.list_(pa.float32())),
            "base": pa.array(base, pa.float32()),
            "scores": pa.array(scores, pa.list_(pa.float32())),
        }
        if not np.isnan(base_unparsed).all():
            columns["base_unparsed"] = pa.array(base_unparsed, pa.float32())
            columns["unparsed"] = pa.array(unparsed, pa.list_(pa.float32()))
        # a half of it that was replayed before a replay was found wrong makes it a replayed one
        table = pa.table(columns).replace_schema_metadata({"cells": _said(rung.cells), "hooked": hooked[0]})
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        write_atomically(path, buffer.getvalue().to_pybytes())

    def _rows(self, cells: Sequence[Cell], check: bool, batch: Sequence[int]) -> list[Row]:
        found = self.measure([self.asked[i] for i in batch], cells, check)
        hooked = [found.hooked] * len(batch)
        told = (found.hits.T, found.base, found.unparsed.T, found.base_unparsed)
        return list(zip(*(one.tolist() for one in told), found.answers, hooked, strict=True))

    def _read(self, number: int, batches: Sequence[Sequence[int]], rung: Rung) -> tuple[Floats, Floats]:
        scores, base = np.empty((len(rung.cells), len(rung.questions))), np.empty(len(rung.questions))
        for place, batch in enumerate(batches):
            path = self._path(number, place)
            try:
                table = pq.read_table(path)
            except FileNotFoundError:
                # another process found a replay wrong, and measures it again
                return self(number, rung)
            except (OSError, pa.ArrowInvalid) as error:
                raise UserError(f"{str(path)!r} is damaged: delete it, and search again") from error
            rows = table.to_pydict()
            documents = [self.asked[i].doc_id for i in batch]
            if table.schema.metadata[b"cells"].decode() != _said(rung.cells) or rows["doc_id"] != documents:
                raise UserError(f"{str(path)!r} is of other cells or questions: take another folder")
            self.answers |= dict(zip(batch, rows["answers"], strict=True))
            why = table.schema.metadata[b"hooked"].decode()
            self.hooked += [why] if why else []
            self.replayed += not why
            columns = np.array(batch) - rung.questions.start
            scores[:, columns], base[columns] = np.array(rows["scores"]).T, rows["base"]
            # there is none where the task does not say, and in batches of before it was kept
            if "unparsed" in rows:
                told = np.column_stack((rows["base_unparsed"], np.array(rows["unparsed"])))
                for cell, row in zip((None, *rung.cells), told.T, strict=True):
                    self.unparsed.setdefault(cell, np.full(len(self.asked), np.nan))[batch] = row
        return scores, base

    def _path(self, number: int, place: int) -> Path:
        return self.folder / "batches" / f"{number:03d}-{place:05d}.parquet"

    def _batches(self, questions: range) -> Iterator[list[int]]:
        """Questions of one shape of visuals, and of like length, together."""
        shapes: dict[tuple[str, ...], list[int]] = {}
        for i in questions:
            shapes.setdefault(tuple(type(v).__name__ for v in self.asked[i].visuals), []).append(i)
        for alike in shapes.values():
            alike.sort(key=lambda i: (-len(self.asked[i].text), i))
            yield from (alike[start : start + self.batch_size] for start in range(0, len(alike), self.batch_size))


def _said(cells: Sequence[Cell]) -> str:
    return json.dumps([[c.vector, c.layer, c.alpha, c.tokens] for c in cells])
