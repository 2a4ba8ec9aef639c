"""Train the tiny models of videos and sounds from scratch: `python -m training.media --out FOLDER`.

It takes five minutes on one core, and writes `tiny-qwen2-vl` and `tiny-qwen2-audio`, which have one language model.
"""

import hashlib
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lmms_steer.tiny_world.checkpoints import MEDIA_MODELS
from training.command import start
from training.media import encoders, text
from training.media.report import measure


def main() -> None:
    """Parse the command line, train, and write the checkpoints and the manifest."""
    args = start(__doc__, "media-training.log", "w")
    began = time.process_time()
    few = {"steps": 3, "bank": 200} if args.quick else {}
    sees = text.train(args.seed, 3 if args.quick else text.STEPS)
    hears = encoders.hearing_model(sees.model.language_model, args.seed)
    encoders.train_video(sees, args.seed, **few)
    encoders.train_audio(hears, args.seed, **few)
    minutes = (time.process_time() - began) / 60
    finish(sees, hears, args.out, args.seed, minutes, 20 if args.quick else 200)


def finish(sees: Any, hears: Any, out: Path, seed: int, minutes: float, items: int) -> None:
    """Write both checkpoints in half precision, measure them, and write MEDIA.json.

    Args:
        sees, hears: the trained models.
        out: the folder.
        seed, minutes: of the training, for the manifest.
        items: questions of each kind.
    """
    _save(sees, encoders.video_processor(), out / MEDIA_MODELS[0])
    _save(hears, encoders.audio_processor(), out / MEDIA_MODELS[1])
    files = sorted(file for name in MEDIA_MODELS for file in (out / name).iterdir())
    manifest = {
        "command": "python -m training.media --out FOLDER",
        "seed": seed,
        "minutes": round(minutes, 1),
        "steps": {"text": text.STEPS, **encoders.STEPS},
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
        "accuracy": measure(out, items),
        "sha256": {f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    }
    (out / "MEDIA.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _save(model: Any, processor: Any, folder: Path) -> None:
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 1
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)


if __name__ == "__main__":
    main()
