"""Train both tiny checkpoints from scratch, and compare them with the ones that ship.

    python -m training --out FOLDER

Finished stages are stored in FOLDER/stages. A command that was killed continues with the first missing stage. Stages of
another seed, or of --quick, are refused.
"""

import hashlib
import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PaliGemmaForConditionalGeneration

from lmms_steer.tiny_world.checkpoints import weights_dir
from training import multimodal, text, vision
from training.command import start
from training.options import check_options, write_options
from training.report import compare, measure
from training.tokenizer import build_tokenizer

log = logging.getLogger("tiny_world")


def main() -> None:
    """Parse the command line, train, write the checkpoints, and print the comparison."""
    args = start(__doc__, "training.log", "a")
    minutes = train(args.out, args.seed, args.quick)
    finish(args.out, args.seed, minutes, items=20 if args.quick else 500)
    sys.stdout.write(compare(args.out, weights_dir("tiny-gemma2").parent) + "\n")


def train(out: Path, seed: int, quick: bool) -> float:
    """Run the stages that are not stored yet.

    Returns:
        The minutes that all stages took, including those of earlier commands.

    Raises:
        SystemExit: for a stored stage of another training.
    """
    stages, options = out / "stages", {"seed": seed, "quick": quick}
    stages.mkdir(parents=True, exist_ok=True)
    minutes_file = stages / "minutes.json"
    minutes: dict[str, float] = {}
    if minutes_file.exists():
        minutes = json.loads(minutes_file.read_text(encoding="utf-8"))
    todo = {"text": _text, "vision": _vision, "mllm": _mllm}
    for name in todo:
        if (stages / name).exists():
            check_options(stages / name, options)
    for name, stage in todo.items():
        if not (stages / name).exists():
            start = time.monotonic()
            _save(stage(stages, seed, quick), stages / name, options)
            minutes[name] = round((time.monotonic() - start) / 60, 2)
            minutes_file.write_text(json.dumps(minutes), encoding="utf-8")
    return sum(minutes.values())


def _text(stages: Path, seed: int, quick: bool) -> Any:  # noqa: ARG001
    model = text.train(seed, (text.Phase(6, 2e-3, curriculum=True),) if quick else text.PHASES)
    log.info("text: accuracy %.3f on unseen scenes in slots", text.answer_accuracy(model, seed + 1234))
    return model


def _vision(stages: Path, seed: int, quick: bool) -> Any:  # noqa: ARG001
    return vision.train(seed, steps=20, bank=200) if quick else vision.train(seed)


def _mllm(stages: Path, seed: int, quick: bool) -> Any:
    phases: tuple[multimodal.Phase, ...] = multimodal.PHASES
    bank = multimodal.BANK
    if quick:
        phases, bank = (multimodal.Phase(3, 1e-4, language_model=True),), 200
    return multimodal.train(seed, stages / "text", stages / "vision", phases, bank)


def _save(model: torch.nn.Module, folder: Path, options: Mapping[str, Any]) -> None:
    # under another name first, so that an interrupted write does not look like a finished stage
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)  # type: ignore[operator]
    write_options(unfinished, options)
    unfinished.rename(folder)


def finish(out: Path, seed: int, minutes: float, items: int) -> None:
    """Write both checkpoints in half precision, measure their accuracy, and write MANIFEST.json.

    Args:
        out: the folder with the stages, for the checkpoints.
        seed: of the training, for the manifest.
        minutes: that the training took, for the manifest.
        items: the number of questions per task and style.
    """
    tokenizer, processor = build_tokenizer(), multimodal.build_processor()
    backbone = AutoModelForCausalLM.from_pretrained(out / "stages" / "text")
    mllm = PaliGemmaForConditionalGeneration.from_pretrained(out / "stages" / "mllm")
    multimodal.cover_processor_tokens(mllm, processor)
    for model, preprocessor, name in ((backbone, tokenizer, "tiny-gemma2"), (mllm, processor, "tiny-paligemma2")):
        for config in (model.config, model.config.get_text_config()):
            config.use_cache = True
        model.half().save_pretrained(out / name)
        preprocessor.save_pretrained(out / name)
    folders = [out / "tiny-gemma2", out / "tiny-paligemma2"]
    files = sorted(file for folder in folders for file in folder.iterdir())
    manifest = {
        "command": "python -m training --out FOLDER",
        "seed": seed,
        "minutes": round(minutes, 1),
        "steps": {
            "text": [phase.steps for phase in text.PHASES],
            "vision": vision.STEPS,
            "multimodal": [phase.steps for phase in multimodal.PHASES],
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy", "pillow")},
        "accuracy": measure(out, items),
        "sha256": {f"{f.parent.name}/{f.name}": hashlib.sha256(f.read_bytes()).hexdigest() for f in files},
    }
    (out / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
