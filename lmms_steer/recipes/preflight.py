"""What is known about a plan before it runs: memory that models need, inputs that are missing, and the likely cost.

Nothing is downloaded or loaded. The size of a checkpoint is read from the headers of its weight files. A judge is asked
for one token, to see whether it answers.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

from lmms_steer.data.availability import missing_datasets
from lmms_steer.recipes.cells import Cell, Marks
from lmms_steer.recipes.checkpoints_here import is_on_hub, where_from
from lmms_steer.recipes.cost import Speed, estimate_lines
from lmms_steer.recipes.layout import (
    backbone_name,
    extract_cell_name,
    extracted_concepts,
    extracted_layers,
    is_folder_of_saes,
    uses_sae,
)
from lmms_steer.recipes.ledger import States
from lmms_steer.recipes.schema import Method, Recipe
from lmms_steer.recipes.systems import extracted_methods
from lmms_steer.search.options import parse_layers
from lmms_steer.vectors.backbones import backbone_checkpoint, sae_of
from lmms_steer.vectors.local_checkpoints import format_bytes, local_checkpoint
from lmms_steer.vectors.methods import methods, split_method
from lmms_steer.vectors.weights import weight_files

JUDGE_SECONDS = 2.0
"""How long a plan waits for a judge's answer."""
MAX_TASKS_NAMED = 2
"""How many tasks a line names before it says "and N more"."""
_LOADED_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_STORED_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}


def cost_lines(
    recipe: Recipe, cells: Sequence[Cell], states: States, marks: Marks, speed: Speed | None = None
) -> Iterator[str]:
    """What a plan will cost, in lines for the user: cells, answers, models, missing inputs, GPU-hours, minutes.

    Args:
        recipe: the recipe.
        cells: its plan.
        states: their states before the run.
        marks: of the recipe's folder. The minutes are estimated from the cells that have run there.
        speed: of the card that GPU-hours are estimated for; None estimates none.
    """
    kinds = Counter(cell.kind for cell in cells)
    remaining = [cell for cell in cells if states[cell.name].state != "kept"]
    counts = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    yield f"{len(cells)} cells: {counts}; {len(cells) - len(remaining)} are done"
    for kind in ("search", "evaluate"):
        answers = [cell.answers for cell in remaining if cell.kind == kind]
        if answers and all(answers):
            yield f"{kind}: {sum(filter(None, answers)):,} answers to compute"
    for name, model in recipe.models.items():
        yield f"{name}: {model.pretrained}, {_size(model.pretrained, model.args.get('dtype', 'auto'))}"
    yield from missing_inputs(recipe, remaining)
    if speed is not None:
        yield from estimate_lines(recipe, remaining, speed)
    elif remaining and any(is_on_hub(model.pretrained) for model in recipe.models.values()):
        yield "for GPU-hours, memory and downloads add --dry-run --gpu h100, or another card"
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for cell in cells:
        mark = marks.read(cell.name)
        if mark.state == "done" and mark.seconds is not None:
            seconds[cell.kind].append(mark.seconds)
    if remaining and all(seconds[cell.kind] for cell in remaining):
        total = sum(sum(seconds[cell.kind]) / len(seconds[cell.kind]) for cell in remaining)
        yield f"estimated from the cells that have run here: {total / 60:.0f} minutes of one worker"


def missing_inputs(recipe: Recipe, cells: Sequence[Cell]) -> Iterator[str]:
    """What the cells read that is not on this disk, in lines for the user.

    Args:
        recipe: the recipe.
        cells: those of its cells that are not done.
    """
    tasks_by_line: dict[str, list[str]] = {}
    for task in dict.fromkeys(_tasks(recipe)):
        for line in dict.fromkeys(missing_datasets(task, recipe.include_path)):
            tasks_by_line.setdefault(line, []).append(task)
    for line, tasks in tasks_by_line.items():
        more = f" and {len(tasks) - MAX_TASKS_NAMED} more" if len(tasks) > MAX_TASKS_NAMED else ""
        yield f"{', '.join(tasks[:MAX_TASKS_NAMED])}{more}: {line}"
    yield from _missing_for_extraction(recipe, cells)
    missing = list(dict.fromkeys(path for cell in cells if (path := missing_read(cell))))
    if missing:
        remedy = _remedy(recipe.chosen_in) if recipe.chosen_in else "make what is missing first"
        if len(missing) == 1:
            yield f"WARNING: a file that its cells read does not exist ({missing[0]}): {remedy}"
        else:
            first = f"the first is {missing[0]}"
            yield f"WARNING: {len(missing)} files that its cells read do not exist ({first}): {remedy}"


def missing_read(cell: Cell) -> str | None:
    """The first file that a cell reads, no cell makes, and that does not exist."""
    return next((path for path in cell.reads if not Path(path).exists()), None)


def memory_problem(pretrained: str, dtype: str) -> str | None:
    """One line where a model's weights alone need more memory than this machine has; else, or where unknown, None.

    Args:
        pretrained: as in `--model_args`.
        dtype: as in `--model_args`.
    """
    available, where, on_cpu = _available_memory()
    needed = weight_bytes(pretrained, dtype, on_cpu)
    if needed is None or needed <= available:
        return None
    return (
        f"{pretrained} needs {format_bytes(needed)} for its weights (dtype={dtype}), and this machine has"
        f" {format_bytes(available)} of {where}: use a smaller dtype or a larger machine"
    )


def weight_bytes(pretrained: str, dtype: str, on_cpu: bool = False) -> int | None:
    """Bytes that a checkpoint's weights take in memory; None where they are not on this disk or cannot be read.

    Args:
        pretrained: as in `--model_args`.
        dtype: as in `--model_args`. `auto` is float32 on a CPU, and the stored dtype elsewhere.
        on_cpu: whether the model will run on a CPU.
    """
    folder = local_checkpoint(pretrained)
    if folder is None:
        return None
    from safetensors import SafetensorError

    width = 4 if dtype == "auto" and on_cpu else _LOADED_BYTES.get(dtype)
    try:
        return sum(_tensor_bytes(path, width) for path in weight_files(folder)) or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None


def _size(pretrained: str, dtype: str) -> str:
    if source := where_from(pretrained):
        return source
    needed = weight_bytes(pretrained, dtype)
    return f"{format_bytes(needed)} of weights" if needed else "weights of unknown size"


def _remedy(chosen_in: str) -> str:
    """How to get the choices of another recipe; a run of it with an overlay has its own folder beside the first."""
    folder = Path(chosen_in)
    others = [path for path in sorted(folder.parent.glob(f"{folder.name}-*")) if path.is_dir()]
    alternative = f", or use --set chosen_in={others[0]}" if others else ""
    return f"run the recipe of {chosen_in} before this one{alternative}"


def _missing_for_extraction(recipe: Recipe, cells: Sequence[Cell]) -> Iterator[str]:
    """Backbones, SAEs and the key of a judge, where a cell extracts vectors."""
    if not any(cell.kind == "extract" for cell in cells):
        return
    of_backbones: dict[str, list[Method]] = {}
    for model in recipe.models.values():
        used = extracted_methods(recipe, model).items()
        with_sae = [settings for name, settings in used if uses_sae(name)]
        of_backbones.setdefault(backbone_name(model), []).extend(with_sae)
    for backbone, with_sae in of_backbones.items():
        full = backbone_checkpoint(backbone, make=False)
        if source := where_from(full):
            yield f"the backbone {full} is {source}"
        for saes in {settings.sae or sae_of(backbone) for settings in with_sae}:
            if saes and not (is_folder_of_saes(saes) or Path(saes).exists()):
                yield f"{backbone}'s SAEs come from {saes}, fetched where they are not on this disk"
    yield from _judge_lines(recipe, {cell.name for cell in cells})


def _judge_lines(recipe: Recipe, remaining: set[str]) -> Iterator[str]:
    """How many features the judge will be asked about, and whether it answers.

    Args:
        recipe: the recipe.
        remaining: the names of the cells that are not done.
    """
    judged = [
        (backbone, name)
        for backbone, model in {backbone_name(model): model for model in recipe.models.values()}.items()
        for name, settings in extracted_methods(recipe, model).items()
        if (settings.judge or "llm") == "llm"
        and methods.get(split_method(name)[0]).uses_judge
        and extract_cell_name(model, name) in remaining
    ]
    if not judged:
        return
    from lmms_steer.extraction.methods.sae import MAX_CANDIDATES
    from lmms_steer.extraction.sae_endpoint import configured_endpoint

    endpoint = configured_endpoint()
    ranges = [extracted_layers(recipe, backbone) for backbone, _ in judged]
    each = MAX_CANDIDATES * len(extracted_concepts(recipe))
    if all(ranges):
        number = f"{sum(each * len(parse_layers(layers)) for layers in ranges if layers):,} features"
    else:
        number = f"{each} features of each layer"
    yield f"judge: up to {number} to check, one request each{f', by {endpoint}' if endpoint else ''}"
    if endpoint is None:
        yield "WARNING: OPENAI_API_KEY is not set: SAE features will be used unchecked; set it, or set judge: none"
    elif problem := endpoint.problem(JUDGE_SECONDS):
        yield f"WARNING: {problem}; or set judge: none, which keeps all features"


def _tasks(recipe: Recipe) -> Iterator[str]:
    for study in recipe.studies.values():
        yield from filter(None, (study.select, *study.test))


def _available_memory() -> tuple[int, str, bool]:
    """Bytes of memory for models, what kind of memory it is, and whether it is the CPU's."""
    import psutil
    import torch

    if not torch.cuda.is_available():
        return int(psutil.virtual_memory().total), "memory", True
    count = torch.cuda.device_count()
    total = sum(torch.cuda.get_device_properties(number).total_memory for number in range(count))
    return total, f"memory on {count} GPU(s)", False


def _tensor_bytes(path: Path, width: int | None) -> int:
    """Bytes of a file's tensors, at `width` bytes a value or as stored."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        tensors = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118  it is no mapping
        return sum(prod(one.get_shape()) * (width or _STORED_BYTES[one.get_dtype()]) for one in tensors)
