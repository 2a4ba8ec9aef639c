"""The search itself, batch by batch: a base pass, then every cell replayed on it; what is done is on disk at once.

One file a batch holds whether each cell answered each question rightly. Several processes, on one machine or on several
with a common disk, share a study: each takes batches that nobody has. A process that dies leaves no half of a batch.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lmms_steer.errors import UserError
from lmms_steer.intervention.hooks import steer
from lmms_steer.resolve import ResolvedSpec
from lmms_steer.search.asked import Asked
from lmms_steer.search.plan import Cell
from lmms_steer.search.replay import Replay
from lmms_steer.spec import Intervention, SteeringSpec
from lmms_steer.vectors import SteeringVectors, write_atomically

CHECKED = 3
"""Cells of each batch that are run again through the hooks."""


class Work:
    """A study's batches.

    Args:
        folder: of the study.
        lm: the unsteered model.
        vectors: by the names that the cells use.
        cells: what is tried.
        asked: all questions.
        batch_size: questions a batch.
    """

    def __init__(
        self, folder: Path, lm: Any, vectors: dict[str, SteeringVectors], cells: Sequence[Cell], asked: Sequence[Asked],
        batch_size: int,
    ) -> None:  # fmt: skip
        self.folder, self.lm, self.vectors, self.cells = folder, lm, vectors, list(cells)
        self.batches = list(_batched(asked, batch_size))
        self.replays = True

    def path(self, number: int) -> Path:
        return self.folder / "batches" / f"{number:05d}.parquet"

    def open_batches(self) -> Iterator[int]:
        """Batches that are now this process's to do."""
        for number in range(len(self.batches)):
            if not self.path(number).is_file() and self._claim(number):
                yield number

    @property
    def done(self) -> bool:
        return all(self.path(number).is_file() for number in range(len(self.batches)))

    @torch.inference_mode()
    def run(self, number: int) -> None:
        """Do one batch and write it."""
        batch = self.batches[number]
        inputs = self.lm.model_inputs([q.text for q in batch], [q.visuals for q in batch])
        ids = [self._ids(q) for q in batch]
        right = torch.tensor([q.right for q in batch])
        source = self._source(inputs)
        base = _restricted(source.base, ids)
        hits = [(row.argmax(-1) == right).numpy() for row in (base,)]
        for cell in self.cells:
            delta = torch.from_numpy(self.vectors[cell.vector][cell.layer].copy()) * cell.alpha
            logits = source.steer(cell.layer, delta, cell.tokens)
            hits.append((_restricted(logits, ids).argmax(-1) == right).numpy())
        if self.replays:
            self._check(source, inputs, number)
        columns = {
            "doc_id": pa.array([q.doc_id for q in batch], pa.int64()),
            "right": pa.array([q.right for q in batch], pa.int32()),
            "base_logits": pa.array([row[: len(i)].tolist() for row, i in zip(base, ids, strict=True)]),
            "hits": pa.array(np.stack(hits, axis=1).tolist(), pa.list_(pa.bool_())),
        }
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), buffer)
        write_atomically(self.path(number), buffer.getvalue().to_pybytes())

    def _ids(self, question: Asked) -> list[int]:
        ids = [self.lm.first_token(answer) for answer in question.answers]
        if len(set(ids)) != len(ids):
            raise UserError(
                f"document {question.doc_id}: two of the answers {', '.join(question.answers)} begin with the same"
                " token in this model: the next token does not tell them apart"
            )
        return ids

    def _source(self, inputs: dict[str, Any]) -> Any:
        if self.replays:
            try:
                return Replay(self.lm.model, inputs)
            except RuntimeError:
                self.replays = False
        return Hooked(self.lm.model, inputs)

    def _check(self, source: Any, inputs: dict[str, Any], number: int) -> None:
        """A replayed cell must be what the hooks give.

        Raises:
            RuntimeError: where it is not.
        """
        hooked = Hooked(self.lm.model, inputs)
        picked = np.random.default_rng(number).choice(len(self.cells), min(CHECKED, len(self.cells)), replace=False)
        for cell in (self.cells[i] for i in picked):
            delta = torch.from_numpy(self.vectors[cell.vector][cell.layer].copy()) * cell.alpha
            replayed, true = (which.steer(cell.layer, delta, cell.tokens).float() for which in (source, hooked))
            error = float((replayed - true).abs().max())
            if error > 1e-3 * max(1.0, float(true.abs().max())) and self.lm.model.dtype == torch.float32:
                raise RuntimeError(f"{cell} replayed is off by {error:.3g} from the model with hooks")

    def _claim(self, number: int) -> bool:
        path = self.folder / "claims" / f"{number:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = f"{socket.gethostname()} {os.getpid()}"
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(mine)
            return True
        except FileExistsError:
            host, _, pid = path.read_text(encoding="utf-8").partition(" ")
            if host != socket.gethostname() or not pid or _alive(int(pid)):
                return False
            # whoever had it is gone; of two that see it, one removes it
            try:
                path.rename(path.with_suffix(f".{os.getpid()}"))
            except FileNotFoundError:
                return False
            path.with_suffix(f".{os.getpid()}").unlink()
            return self._claim(number)


class Hooked:
    """What `Replay` offers, by full forwards with hooks: for models that it cannot do, and to check the others."""

    def __init__(self, model: Any, inputs: dict[str, Any]) -> None:
        self.model, self.inputs = model, inputs

    @property
    def base(self) -> Tensor:
        return self._logits()

    def steer(self, layer: int, delta: Tensor, tokens: str) -> Tensor:
        vector = SteeringVectors({layer: delta.numpy()}, {})
        spec = SteeringSpec((Intervention("v", layer, 1.0, tokens),))
        with steer(self.model, ResolvedSpec(spec, (vector,))):
            return self._logits()

    def _logits(self) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self.model(**self.inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits


def _restricted(logits: Tensor, ids: Sequence[Sequence[int]]) -> Tensor:
    """The answers' logits [questions, most answers]; -inf where a question has fewer."""
    width = max(map(len, ids))
    rows = torch.full((len(ids), width), -torch.inf)
    for number, own in enumerate(ids):
        rows[number, : len(own)] = logits[number, list(own)].float().cpu()
    return rows


def _batched(asked: Sequence[Asked], size: int) -> Iterator[list[Asked]]:
    """Questions of one shape of visuals, and of like length, together."""
    shapes: dict[tuple[str, ...], list[Asked]] = {}
    for question in asked:
        shapes.setdefault(tuple(type(v).__name__ for v in question.visuals), []).append(question)
    for alike in shapes.values():
        alike.sort(key=lambda q: (-len(q.text), q.doc_id))
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
