"""`lmms-steer search`: load once, try every cell on every held-out question, choose, say what the choice is worth."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from lmms_steer.errors import UserError
from lmms_steer.resolve import ModelFacts, resolve
from lmms_steer.search import study
from lmms_steer.search.plan import FEW, Plan, alpha_range, layer_range, refuse_test, token_targets
from lmms_steer.spec import SteeringSpec
from lmms_steer.vectors import SteeringVectors, write_atomically


def run(
    model: str, model_args: str, vectors: list[str], task: str, layers: str, alphas: str, tokens: str, controls: int,
    batch_size: int, limit: int | None, output: Path, test_known: bool,
) -> Iterator[str]:  # fmt: skip
    """Yields what the user should read.

    Raises:
        UserError: before the model is loaded, for a grid, task, vector or folder that cannot be searched.
    """
    strengths, targets = alpha_range(alphas), token_targets(tokens)
    from lmms_steer.models.from_args import model_named
    from lmms_steer.search.asked import load, questions
    from lmms_steer.search.work import Work

    found_task, split = load(task, model)
    refuse_test(task, split, test_known)
    lm = model_named(model, model_args)
    if lm.resolved.spec:
        raise UserError(
            "--model_args of a search name the unsteered model: give vector, layer, alpha and tokens as options"
        )
    facts = ModelFacts(
        lm.pretrained, len(lm.model.get_decoder().layers), lm.config.get_text_config(decoder=True).hidden_size
    )
    wanted = layer_range(layers, facts.n_layers) if layers else tuple(range(facts.n_layers))
    names = [name for vector in vectors for name in (vector, *study.control_names(vector, controls))]
    loaded = {name: _vector(name, wanted[0], facts) for name in names}
    missing = [layer for name in names for layer in wanted if layer not in loaded[name].directions]
    if missing:
        wanted = tuple(layer for layer in wanted if all(layer in loaded[name].directions for name in names))
        yield f"layers without a direction in every vector are left out: {', '.join(map(str, sorted(set(missing))))}"
    asked = list(questions(found_task, limit))
    hashes = {name: vector.sha256 for name, vector in loaded.items()}
    plan = Plan(model, model_args, hashes, task, len(asked), wanted, strengths, targets, batch_size)
    if len(asked) < FEW:
        yield f"WARNING: {len(asked)} questions: a 95% interval is about ±{100 / len(asked) ** 0.5:.0f} points wide"
    output.mkdir(parents=True, exist_ok=True)
    with FileLock(output / ".plan.lock"):
        plan.settle(output)
    cells = plan.cells(facts.n_layers - 1)
    if not cells:
        raise UserError("the grid is empty: image tokens of the last layer reach no answer")
    work = Work(output, lm, loaded, cells, asked, batch_size)
    yield f"{len(cells)} cells x {len(asked)} questions in {len(work.batches)} batches"
    _through(work)
    if not work.replays:
        yield "this model cannot be replayed: every cell was a full forward with hooks"
    if not work.done:
        yield "the rest of the batches is other processes' work; the last of them writes the result"
        return
    with FileLock(output / ".result.lock"):
        yield from _finish(output, plan, work)


def _through(work: Any) -> None:
    finished = sum(work.path(number).is_file() for number in range(len(work.batches)))
    with tqdm(total=len(work.batches), initial=finished, desc="search", unit=" batches", disable=None) as bar:
        for number in work.open_batches():
            work.run(number)
            bar.update()


def _finish(output: Path, plan: Plan, work: Any) -> Iterator[str]:
    from lmms_steer.search.pictures import draw

    grid, more = study.gathered(work)
    found = study.result(plan, grid, more)
    study.write_optuna(output, grid)
    yield f"baseline {found['baseline']:.3f} on {plan.n} questions of {plan.task}"
    for name, told in found["vectors"].items():
        folder = output / name.replace("/", "_") if len(found["vectors"]) > 1 else output
        folder.mkdir(exist_ok=True)
        write_atomically(folder / "choice.yaml", study.choice_yaml(plan, name, told["best"]).encode())
        draw(folder, name, grid.of(name), told)
        yield from _lines(name, told)
        yield f"  -> {folder / 'choice.yaml'}, for --model_args steering=…"
    calibrated = found["calibrated"]
    yield f"answer biases fitted on the same questions, without touching the model: {_points(calibrated)}"
    yield "these are the questions that the choice was made on: measure it on others before you report it"
    study.write_result(output, found)


def _lines(name: str, told: dict[str, Any]) -> Iterator[str]:
    best, near = told["best"], told["one_standard_error"]
    yield f"{name}: best of {best['cells_tried']} cells: {_cell(best)}: {_points(best)}"
    yield f"  p = {best['p_corrected']:.3g} for a gain as large in any of them by chance (max-T)"
    yield f"  weakest within one standard error: {_cell(near)}: {_points(near)}"
    if told["controls"]:
        gains = ", ".join(f"{100 * control['gain']:+.1f}" for control in told["controls"].values())
        yield f"  random vectors of the same norms, searched alike: {gains}"


def _cell(told: dict[str, Any]) -> str:
    return f"layer={told['layer']},alpha={told['alpha']:g},tokens={told['tokens']}"


def _points(told: dict[str, Any]) -> str:
    return f"{100 * told['gain']:+.1f} points [{100 * told['low']:+.1f}, {100 * told['high']:+.1f}]"


def _vector(name: str, layer: int, facts: ModelFacts) -> SteeringVectors:
    spec = SteeringSpec.parse(f"vector={name},layer={layer},alpha=1,tokens=text")
    from lmms_steer.extraction.first_use import extract_missing

    list(extract_missing(spec, facts.name))
    return resolve(spec, facts).vectors[0]
