"""What a plan costs on a card: GPU-hours, memory and downloads. An estimate, before anything runs.

The operations of every search and evaluation are counted from the models' shapes, and divided by what eager
transformers reach of the card's peak. Each token that is written reads all weights once for each stack of cells, and
launches the kernels of every layer. Extractions take minutes, and are left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from lmms_steer.recipes.answers import budget_answers, filter_passes, searched_questions
from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.checkpoints_here import is_on_hub
from lmms_steer.recipes.layout import backbone_name, evaluate_cell_name, extracted_layers, search_cell_name, uses_sae
from lmms_steer.recipes.schema import Model, Recipe
from lmms_steer.recipes.shapes import Card, Shape, find_shape
from lmms_steer.recipes.systems import extracted_methods
from lmms_steer.search.options import parse_layers
from lmms_steer.vectors.backbones import backbone_checkpoint
from lmms_steer.vectors.local_checkpoints import format_bytes

TEXT_TOKENS = 60
"""Tokens of a question with its choices."""
BASE_PASSES = 3
"""Full passes of each question of a search: the recorded one, its replay without steering, and one for rounding."""
CHECK_PASSES = 3 * 4 / 8
"""Full passes for checks: three cells of one batch in eight (`measure.CHECKED_CELLS`, `batch_store.CHECK_EVERY`), each
with hooks at two strengths, as it is and with rounding."""
STACK_TOKENS = 65536
"""Tokens of replayed cells at once (`batches.TOKENS_AT_ONCE_ON_ACCELERATORS`), fewer where they do not fit."""
BASE_PASS_BYTES = 4 * 2**30
"""Most bytes of a recorded pass that are kept on the card: the default of `lmms-steer search --memory`."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a card works, from the slow end of the estimate to the fast one.

    Attributes:
        name: of the card, for the user.
        flops: operations a second in large products.
        bandwidth: bytes a second.
        launch: seconds in which the kernels of one layer are launched.
        written: tokens that an answer has: a task's limit, and a letter with its end.
        memory: bytes of the card.
        basis: how `flops` is known, for the user.
        unit: of the time, for the user.
    """

    name: str
    flops: tuple[float, float]
    bandwidth: tuple[float, float]
    memory: float
    basis: str
    unit: str = "GPU-hours"
    launch: tuple[float, float] = (1e-3, 5e-4)
    written: tuple[int, int] = (20, 2)


def speed_of(card: Card) -> Speed:
    """What eager transformers reach on a card: 25 to 50% of its peak, and 50 to 80% of its bandwidth."""
    peak = f"{card.flops / 1e12:.0f} TFLOP/s bfloat16, {card.bandwidth / 1e12:.2f} TB/s, {card.memory / 1e9:.0f} GB"
    return Speed(
        f"one {card.name} ({peak})",
        (0.25 * card.flops, 0.5 * card.flops),
        (0.5 * card.bandwidth, 0.8 * card.bandwidth),
        card.memory,
        "at 25-50% of the peak",
    )


@dataclass(slots=True)
class Work:
    """What one model has to compute.

    Attributes:
        flops: operations.
        steps: how often a stack of cells or a batch of questions writes a token, for each token of an answer.
        read: bytes of keys and values that are read for each token of an answer.
    """

    flops: float = 0.0
    steps: float = 0.0
    read: float = 0.0

    def add(self, other: "Work") -> None:
        """Add other work of the same model."""
        self.flops, self.steps, self.read = self.flops + other.flops, self.steps + other.steps, self.read + other.read

    def hours(self, shape: Shape, weights: int, speed: Speed) -> tuple[float, float]:
        """Hours on a card, the least and the most."""
        slow, fast = (
            self.flops / flops
            + written * (self.steps * (weights / bandwidth + shape.layers * launch) + self.read / bandwidth)
            for flops, bandwidth, launch, written in zip(
                speed.flops, speed.bandwidth, speed.launch, speed.written, strict=True
            )
        )
        return fast / 3600, slow / 3600


def estimate_lines(recipe: Recipe, cells: Sequence[Cell], speed: Speed) -> Iterator[str]:
    """The cost of the cells that are not done, in lines for the user.

    Args:
        recipe: the recipe.
        cells: those of its cells that are not done.
        speed: of the card.
    """
    yield f"on {speed.name}, estimated from the models' shapes, {speed.basis}:"
    by_name = {cell.name: cell for cell in cells}
    totals = [0.0, 0.0]
    for name, model in recipe.models.items():
        shape = find_shape(model.pretrained)
        if shape is None:
            yield f"  {name}: not estimated, as the shape of {model.pretrained} is not known"
            continue
        if model.args.get("dtype") == "float32":
            yield f"  {name}: not estimated, as only 16 bits are and it has dtype=float32"
            continue
        generates = _generates(recipe)
        _, stack = _search_memory(shape, model.args, model.search_batch_size, speed.memory, generates)
        work = Work()
        for cell_work in _works(recipe, name, model, shape, by_name, stack):
            if cell_work is None:
                yield f"  {name}: not estimated in full, as its layers or numbers of questions are not in the recipe"
                break
            work.add(cell_work)
        hours = work.hours(shape, shape.weight_bytes(model.args), speed)
        totals = [total + more for total, more in zip(totals, hours, strict=True)]
        yield f"  {name}: {_range(hours)} {speed.unit}; {_memory_line(shape, model, speed.memory, generates)}"
    yield from _extraction_lines(recipe, cells, speed.memory)
    yield f"  in all {_range(totals)} {speed.unit} for searches and evaluations"
    yield from _download_lines(recipe, cells)


def _works(
    recipe: Recipe, name: str, model: Model, shape: Shape, cells: dict[str, Cell], stack: int
) -> Iterator[Work | None]:
    """The work of each search and evaluation of a model; None for one that is not known."""
    for study_name, study in recipe.studies.items():
        for concept in study.concepts if study.select else ():
            for method in recipe.methods:
                cell = cells.get(search_cell_name(name, study_name, concept, method))
                if cell is not None:
                    questions = searched_questions(recipe, study)
                    resolving = budget_answers(recipe, model, study, recipe.methods[method])
                    filtering = filter_passes(recipe, model, study, recipe.methods[method])
                    passes = questions * (BASE_PASSES + CHECK_PASSES) + filtering
                    yield _search_work(recipe, model, shape, cell.answers, passes, stack, resolving)
        prefix = evaluate_cell_name(name, study_name, "")
        for cell_name, cell in cells.items():
            if cell_name.startswith(prefix):
                yield _evaluate_work(model, shape, cell.answers)


def _search_work(
    recipe: Recipe, model: Model, shape: Shape, answers: int | None, passes: float, stack: int, resolving: int
) -> Work | None:
    """The work of a search.

    Args:
        recipe, model, shape: what is searched.
        answers: of all cells; None where they are not known.
        passes: full forward passes of a question.
        stack: tokens of cells at once.
        resolving: answers of one token, or a few, by which KL budgets are resolved before.
    """
    if answers is None:
        return None
    tokens = shape.image_tokens + TEXT_TOKENS
    layers = parse_layers(model.layers) if model.layers else range(shape.layers)
    above = mean(shape.layers - 1 - layer for layer in layers)
    full = shape.vision_flops() + shape.layers * shape.layer_flops(tokens)
    output = 2 * shape.width * shape.vocabulary
    work = Work((answers + resolving) * (above * shape.layer_flops(tokens) + output) + passes * full)
    if _generates(recipe):
        work.steps = answers * tokens / stack
        work.read = answers * tokens * shape.cache_bytes
    return work


def _evaluate_work(model: Model, shape: Shape, answers: int | None) -> Work | None:
    if answers is None:
        return None
    tokens = shape.image_tokens + TEXT_TOKENS
    full = shape.vision_flops() + shape.layers * shape.layer_flops(tokens)
    return Work(answers * full, answers / model.batch_size, answers * tokens * shape.cache_bytes)


def _search_memory(
    shape: Shape, args: Mapping[str, str], batch: int, available: float, generates: bool
) -> tuple[float, int]:
    """Bytes that a search needs, and how many tokens its stacks of cells have.

    A search halves its stacks until they fit; a single cell is the least.
    """
    tokens = shape.image_tokens + TEXT_TOKENS
    fixed = shape.weight_bytes(args) + min(BASE_PASS_BYTES, batch * shape.base_pass_bytes(tokens, generates))
    least, each = batch * tokens, shape.stack_bytes(tokens, generates)
    stack = max(least, STACK_TOKENS)
    while fixed + stack * each > available and stack > least:
        stack = max(least, stack // 2)
    return fixed + stack * each, stack


def _memory_line(shape: Shape, model: Model, available: float, generates: bool) -> str:
    weights = shape.weight_bytes(model.args)
    needed, stack = _search_memory(shape, model.args, model.search_batch_size, available, generates)
    line = f"memory: {weights / 1e9:.1f} GB of weights, about {needed / 1e9:.0f} GB in a search"
    if needed <= available:
        return line if stack >= STACK_TOKENS else f"{line}, in stacks of {stack:,} tokens"
    for batch in range(model.search_batch_size - 1, 0, -1):
        if _search_memory(shape, model.args, batch, available, generates)[0] <= available:
            return f"{line}: TOO MUCH, set search_batch_size to {batch}"
    return f"{line}: TOO MUCH at any batch size, take a larger card or args: {{load_in_4bit: 'True'}}"


def _generates(recipe: Recipe) -> bool:
    return recipe.search.score != "letters"


def _extraction_lines(recipe: Recipe, cells: Sequence[Cell], available: float) -> Iterator[str]:
    """Backbones that do not fit on the card."""
    if not any(cell.kind == "extract" for cell in cells):
        return
    for name, model in recipe.models.items():
        backbone = backbone_name(model)
        shape = find_shape(backbone)
        if shape is None:
            continue
        width = {"float32": 4, None: shape.stored}.get(model.backbone_dtype, 2)
        if (needed := width * shape.parameters) > available:
            half = " set backbone_dtype: bfloat16" if width == 4 else " take a larger card"
            yield f"  {name}: extracting from {backbone} loads {needed / 1e9:.1f} GB: TOO MUCH,{half}"


def _download_lines(recipe: Recipe, cells: Sequence[Cell]) -> Iterator[str]:
    """Bytes of the weights and SAEs that are not on this disk."""
    wanted = [model.pretrained for model in recipe.models.values()]
    saes = 0
    if any(cell.kind == "extract" for cell in cells):
        backbones = [backbone_name(model) for model in recipe.models.values()]
        wanted += [backbone_checkpoint(name, make=False) for name in backbones]
        saes = sum(_sae_bytes(recipe, name) for name in dict.fromkeys(backbones))
    absent = [name for name in dict.fromkeys(wanted) if is_on_hub(name)]
    if not absent:
        return
    sizes = {name: shape.download if (shape := find_shape(name)) else None for name in absent}
    listed = ", ".join(f"{name} {format_bytes(size) if size else 'of unknown size'}" for name, size in sizes.items())
    with_saes = f", SAEs up to {format_bytes(saes)}" if saes else ""
    total = format_bytes(saes + sum(filter(None, sizes.values())))
    yield f"  to download: {total} ({listed}{with_saes})"


def _sae_bytes(recipe: Recipe, backbone: str) -> int:
    """Bytes of the SAEs of the layers that are extracted; 0 if no method of the backbone's models reads any."""
    models = [model for model in recipe.models.values() if backbone_name(model) == backbone]
    shape = find_shape(backbone)
    if shape is None or not any(uses_sae(method) for model in models for method in extracted_methods(recipe, model)):
        return 0
    layers = extracted_layers(recipe, backbone)
    return shape.sae_download * len(parse_layers(layers)) // shape.layers if layers else shape.sae_download


def _range(values: Sequence[float]) -> str:
    low, high = values
    digits = 0 if high >= 10 else 1 if high >= 1 else 2
    return f"{low:,.{digits}f}-{high:,.{digits}f}"
