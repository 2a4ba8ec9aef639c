"""The questions about the tiny world's videos and sounds.

The parquet files are small: they contain what is in a video or a sound, and its seed. It is rendered when it is asked
about.

    python -m lmms_steer.tiny_world.media_questions FOLDER     # write the parquet files again, byte for byte
"""

import io
import random
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from lmms_steer.tiny_world.moving import DIRECTIONS, WAY, Moving, sample_moving
from lmms_steer.tiny_world.sounds import NUMBER, NUMBERS, PITCH, PITCHES, Tones, sample_tones

SIZES = {"select": 200, "test": 400}
SEED = 2605
KINDS = {
    "motion": (WAY, tuple(DIRECTIONS), "direction"),
    "pitch": (PITCH, tuple(PITCHES), "pitch"),
    "tones": (NUMBER, NUMBERS, "count"),
}
"""Task ▸ its question, the answers, and the field of `Moving` or `Tones` that they are about."""
STYLE = "hard"
"""Faint, slow and noisy, so that some answers are wrong."""


def rows(kind: str, split: str) -> list[dict[str, Any]]:
    """The questions of one task and split; no two splits share a video or a sound."""
    rng = random.Random(f"{SEED} {kind} {split}")
    question, choices, field = KINDS[kind]
    made = []
    for number in range(SIZES[split]):
        shown = sample_moving(rng, STYLE) if kind == "motion" else sample_tones(rng, STYLE)
        # the answers are equally frequent
        word = choices[number % len(choices)]
        asked: dict[str, Any] = {field: choices.index(word) + 1 if field == "count" else word}
        shown = replace(shown, **asked)
        letter = "ABCD"[choices.index(word)]
        made.append({"question": question, "choices": list(choices), "answer": f"({letter})", **asdict(shown)})
    return made


def shown_by(row: dict[str, Any]) -> Moving | Tones:
    """The video or the sound of a question."""
    kind = Moving if "colour" in row else Tones
    return kind(**{one.name: row[one.name] for one in fields(kind)})


def parquet(kind: str, split: str) -> bytes:
    """The questions as the content of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows(kind, split)), file, compression="zstd")
    return file.getvalue()


def main() -> None:
    """Write the parquet files into the folder of the command line."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        for split in SIZES:
            (folder / f"{kind}_{split}.parquet").write_bytes(parquet(kind, split))


if __name__ == "__main__":
    main()
