"""`lmms-steer search`: load once, ask what the strategy asks, choose, say what the choice is worth."""

import random
from collections.abc import Iterator

from filelock import FileLock

from lmms_steer.errors import UserError
from lmms_steer.resolve import ModelFacts, resolve
from lmms_steer.search.options import Options
from lmms_steer.search.plan import FEW, Plan
from lmms_steer.search.ranges import alpha_range, layer_range, refuse_test, token_targets
from lmms_steer.spec import SteeringSpec
from lmms_steer.vectors import SteeringVectors


def run(options: Options) -> Iterator[str]:
    """Yields what the user should read.

    Raises:
        UserError: before the model is loaded, for a grid, task, vector or folder that cannot be searched.
    """
    if options.layers:
        layer_range(options.layers)
    strengths, targets = alpha_range(options.alphas), token_targets(options.tokens)
    from lmms_steer.models.from_args import model_named
    from lmms_steer.search.asked import load, questions, sha256

    task, split = load(options.task, options.model, options.include_path)
    refuse_test(options.task, split, options.test_known)
    if options.confirm == options.task:
        raise UserError(f"--confirm {options.confirm}: the choice is made on these questions, confirm it on others")
    to_confirm = load(options.confirm, options.model, options.include_path)[0] if options.confirm else None
    lm = model_named(options.model, options.model_args)
    if lm.resolved.spec:
        raise UserError(
            "--model_args of a search name the unsteered model: give vector, layer, alpha and tokens as options"
        )
    facts = ModelFacts(
        lm.pretrained, len(lm.model.get_decoder().layers), lm.config.get_text_config(decoder=True).hidden_size
    )
    layers = layer_range(options.layers, facts.n_layers) if options.layers else tuple(range(facts.n_layers))
    controls = [f"control=random:{seed}" for seed in range(options.controls)]
    names = [name for vector in options.vectors for name in (vector, *(f"{vector},{one}" for one in controls))]
    vectors = {name: _vector(name, layers[0], facts) for name in names}
    missing = sorted({layer for layer in layers for vector in vectors.values() if layer not in vector.directions})
    if missing:
        layers = tuple(layer for layer in layers if layer not in missing)
        yield f"layers without a direction in every vector are left out: {', '.join(map(str, missing))}"
    writes = task.config.output_type == "generate_until"
    score = ("generate" if writes else "letters") if options.score == "auto" else options.score
    asked = list(questions(task, options.limit, fixed=score == "letters" or "screen" in options.strategy))
    # strategies look at the first questions first: they should be like the rest
    random.Random(options.seed).shuffle(asked)
    plan = Plan(
        options.model, options.model_args, {name: vector.sha256 for name, vector in vectors.items()}, options.task,
        len(asked), sha256(asked), layers, strengths, targets, options.batch_size, options.strategy, score,
        options.trials, options.seed,
    )  # fmt: skip
    if writes and score == "letters":
        yield "WARNING: this task lets the model write; a cell may be good at its letters and write something else"
    if len(asked) < FEW:
        yield f"WARNING: {len(asked)} questions: a 95% interval is about ±{100 / len(asked) ** 0.5:.0f} points wide"
    options.output.mkdir(parents=True, exist_ok=True)
    with FileLock(options.output / ".plan.lock"):
        plan.settle(options.output)
    from lmms_steer.search.searching import Searching

    yield from Searching(options, plan, lm, task, vectors, asked).run(to_confirm)


def _vector(name: str, layer: int, facts: ModelFacts) -> SteeringVectors:
    spec = SteeringSpec.parse(f"vector={name},layer={layer},alpha=1,tokens=text")
    from lmms_steer.extraction.first_use import extract_missing

    list(extract_missing(spec, facts.name))
    return resolve(spec, facts).vectors[0]
