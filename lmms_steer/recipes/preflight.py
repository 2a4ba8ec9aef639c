"""Whether a model fits, told before it is loaded from the headers of its weights; no weight is read.

What a plan reads that is not on this disk: datasets, and the choices of another recipe.

What a plan costs, as far as it can be told: commands, questions, memory, and the minutes that its like took here.
"""

import json
import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

from lmms_steer.data import availability as datasets
from lmms_steer.data.availability import absence_note
from lmms_steer.recipes import layout as words
from lmms_steer.recipes.cells import Cell, Marks
from lmms_steer.recipes.schema import Recipe
from lmms_steer.recipes.state import States
from lmms_steer.vectors.backbones import backbone_checkpoint, checkpoint, sae_of
from lmms_steer.vectors.methods import methods as extraction_methods
from lmms_steer.vectors.methods import split_method

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_STORED = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}
_LARGEST_HEADER = 100 * 2**20


def weight_bytes(pretrained: str, dtype: str, processor: bool = False) -> int | None:
    """Bytes that a checkpoint's weights take; None where they are not on this disk or cannot be told.

    Args:
        pretrained: as in `--model_args`.
        dtype: as in `--model_args`; `auto` is float32 on a processor, and as stored elsewhere.
        processor: whether it will run on a processor.
    """
    folder = local_checkpoint(pretrained)
    width = 4 if dtype == "auto" and processor else _BYTES.get(dtype)
    try:
        return sum(_tensors(path, width) for path in _weights(folder)) or None if folder else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None


def memory_problem(pretrained: str, dtype: str) -> str | None:
    """One line where the weights alone are more than there is; None where they fit, or nobody can tell."""
    import psutil
    import torch

    if torch.cuda.is_available():
        there = sum(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
        where = f"{torch.cuda.device_count()} accelerator(s)"
    else:
        there, where = int(psutil.virtual_memory().total), "memory"
    need = weight_bytes(pretrained, dtype, not torch.cuda.is_available())
    if need is None or need <= there:
        return None
    return (
        f"{pretrained} needs {format_bytes(need)} for its weights (dtype={dtype}), and there are"
        f" {format_bytes(there)} of {where}: take a smaller dtype or a larger machine"
    )


def format_bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**8 else f"{count / 1e6:.1f} MB"


def local_checkpoint(name: str) -> Path | None:
    """Where a checkpoint's files are, without its weights being read; None for one that is not here."""
    name = checkpoint(name)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub.constants import HF_HUB_CACHE

    snapshots = Path(HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "snapshots")
    found = sorted(snapshots.glob("*"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _weights(folder: Path) -> list[Path]:
    """What transformers loads; some checkpoints hold the same weights a second time, in another layout."""
    index, one = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        return sorted({folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    return [one] if one.is_file() else sorted(folder.glob("*.safetensors"))


def _tensors(path: Path, width: int | None) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _LARGEST_HEADER:
            raise ValueError(f"{path} is no safetensors file")
        header = json.loads(file.read(length))
    tensors = (entry for name, entry in header.items() if name != "__metadata__")
    return sum(prod(entry["shape"]) * (width or _STORED[entry["dtype"]]) for entry in tensors)


FEW = 2
"""Tasks that a line names."""


def missing_inputs(recipe: Recipe, cells: Sequence[Cell]) -> Iterator[str]:
    """Lines for people; nothing is fetched or loaded."""
    lines: dict[str, list[str]] = {}
    for task in dict.fromkeys(_tasks(recipe)):
        for line in dict.fromkeys(datasets.missing_datasets(task, recipe.include_path)):
            lines.setdefault(line, []).append(task)
    for line, tasks in lines.items():
        more = f" and {len(tasks) - FEW} more" if len(tasks) > FEW else ""
        yield f"{', '.join(tasks[:FEW])}{more}: {line}"
    yield from _extractions(recipe, cells)
    lost = list(dict.fromkeys(path for cell in cells if (path := missing_read(cell))))
    if lost:
        first = _how(recipe.chosen_in) if recipe.chosen_in else "make them first"
        yield f"WARNING: {len(lost)} files that its cells read are not there (the first is {lost[0]}): {first}"


def _how(chosen_in: str) -> str:
    """What to do for choices of another recipe; a run of it with an override lies in a folder of its own."""
    folder = Path(chosen_in)
    others = [path for path in sorted(folder.parent.glob(f"{folder.name}-*")) if path.is_dir()]
    instead = f", or say --set chosen_in={others[0]}" if others else ""
    return f"run the recipe of {chosen_in} before this one{instead}"


def _extractions(recipe: Recipe, cells: Sequence[Cell]) -> Iterator[str]:
    if not any(cell.kind == "extract" for cell in cells):
        return
    with_sae = [
        settings for name, settings in recipe.methods.items() if extraction_methods.get(split_method(name)[0]).uses_sae
    ]
    for backbone in dict.fromkeys(map(words.backbone_name, recipe.models.values())):
        full = backbone_checkpoint(backbone)
        if not local_checkpoint(full):
            yield f"the backbone {full} is {datasets.absence_note()}"
        for saes in {settings.sae or sae_of(backbone) for settings in with_sae}:
            if saes and not Path(saes).exists():
                yield f"{backbone}'s SAEs come from {saes}, fetched where they are not on this disk"
    judges = {settings.judge or "llm" for settings in with_sae}
    if "llm" in judges and not os.environ.get("OPENAI_API_KEY"):
        yield "WARNING: OPENAI_API_KEY is not set: SAE features will be taken unchecked; set it, or say judge: none"


def missing_read(cell: Cell) -> str | None:
    """The first file that it reads, and no cell makes, that is not there."""
    return next((path for path in cell.reads if not Path(path).exists()), None)


def _tasks(recipe: Recipe) -> Iterator[str]:
    for study in recipe.studies.values():
        yield from filter(None, (study.select, *study.test))


def cost_lines(recipe: Recipe, cells: Sequence[Cell], states: States, marks: Marks) -> Iterator[str]:
    """Lines for people."""
    kinds = Counter(cell.kind for cell in cells)
    kept = sum(state["state"] == "kept" for state in states.values())
    yield f"{len(cells)} cells: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}; {kept} are done"
    for kind in ("search", "evaluate"):
        answers = [cell.answers for cell in cells if cell.kind == kind and states[cell.name]["state"] != "kept"]
        if answers and all(answers):
            yield f"{kind}: {sum(filter(None, answers)):,} answers to compute"
    for name, model in recipe.models.items():
        need = weight_bytes(model.pretrained, model.args.get("dtype", "auto"))
        size = f"{format_bytes(need)} of weights" if need else "of a size that cannot be told"
        size = size if local_checkpoint(model.pretrained) else absence_note()
        yield f"{name}: {model.pretrained}, {size}"
    yield from missing_inputs(recipe, [cell for cell in cells if states[cell.name]["state"] != "kept"])
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for cell in cells:
        mark = marks.read(cell.name)
        if mark.get("state") == "done":
            seconds[cell.kind].append(mark["seconds"])
    left = [cell.kind for cell in cells if states[cell.name]["state"] != "kept"]
    if left and all(seconds[kind] for kind in left):
        total = sum(sum(seconds[kind]) / len(seconds[kind]) for kind in left)
        yield f"as long as the same took here so far: {total / 60:.0f} minutes of one worker"
