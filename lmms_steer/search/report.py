"""The lines that a search prints when it is finished."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from lmms_steer._util.formatting import count_noun, format_points, format_share
from lmms_steer.scoring.unparsed import unparsed_warning
from lmms_steer.search.plan import LMMS_EVAL, Plan
from lmms_steer.search.power import measured_power_line
from lmms_steer.search.results import (
    CalibrationResult,
    CellResult,
    ConfirmationResult,
    Gain,
    SearchResult,
    VectorResult,
)

SIMILAR_SHARE = 0.5
"""The share of a winner's gain from which on a random vector's gain is warned of."""


def report_lines(plan: Plan, result: SearchResult, output: Path, adaptive: bool = False) -> Iterator[str]:
    """The choice for each vector, the controls for comparison, and where the files are.

    Args:
        plan, result: the search.
        output: the study's folder.
        adaptive: whether the strategy proposed later cells from earlier scores.
    """
    images = f", {count_noun(result.n_images, 'image')}," if result.n_images is not None else ""
    unparsed = _unparsed(result.baseline_unparsed)
    yield f"baseline {result.baseline:.3f} on {plan.n} questions{images} of {plan.task}{unparsed}"
    if result.n_images == 1:
        yield "all questions show one image: there is no interval and no test of a gain"
    for name, vector in result.vectors.items():
        yield from _choice_lines(name, vector, plan.n, adaptive, result.n_images)
        for tokens, target in vector.targets.items():
            yield _target_line(tokens, target)
        if result.blank is not None:
            yield from _blank_lines(name, vector, result.blank)
        if result.confirmed is not None:
            yield _confirmation_line(plan, name, result.confirmed)
        yield f"  -> {plan.folder(output, name) / 'choice.yaml'}, for --model_args steering=…"
    if (several := len(result.vectors)) > 1:
        yield f"each p is for the cells of one vector: {several} vectors have {several} chances of a small one"
    yield from _unparsed_warnings(plan, result)
    if result.calibrated is not None:
        yield _bias_line(plan, result.calibrated)
    elif plan.harness == LMMS_EVAL:
        yield "no answer biases: the answers are not of one small set of words"
    if result.confirmed is None:
        per_target = any(vector.targets for vector in result.vectors.values())
        how = "evaluate each choice_TARGET.yaml there" if per_target else "--confirm TASK"
        yield f"the choice was made on these questions: measure it on others before you report it ({how})"


def format_cell(cell: CellResult) -> str:
    """A cell as a spec writes it, without its vector."""
    return f"layer={cell.layer},alpha={cell.alpha:g},tokens={cell.tokens}"


def format_gain(gain: Gain) -> str:
    """A gain in points with its 95% interval."""
    points, low, high = (format_points(100 * value) for value in (gain.gain, gain.low, gain.high))
    return f"{points} points [{low}, {high}]"


def format_damage(cell: CellResult) -> str:
    """What a cell does beyond its gain: its KL in nats, and how many answers it broke and mended."""
    kl = "KL unknown (measured by an older version)" if cell.kl is None else f"KL {cell.kl:.3g} nats"
    broken = count_noun(cell.broken, "right answer", "right answers")
    fixed = count_noun(cell.fixed, "wrong one", "wrong ones")
    return f"{kl}, {broken} broken, {fixed} mended"


def _choice_lines(name: str, vector: VectorResult, n: int, adaptive: bool, n_images: int | None) -> Iterator[str]:
    best, cautious = vector.best, vector.one_standard_error
    cells, harms = count_noun(vector.cells_tried, "cell"), best.gain < 0
    verdict = f"best of {cells}" if vector.winner else f"no winner; the best of {cells}"
    if harms:
        verdict = "no winner: it lowers the score"
        if vector.cells_tried > 1:
            verdict = f"no winner: all {cells} lower the score, the least harmful"
    yield f"{name}: {verdict}: {format_cell(best)}: {format_gain(best)}{_unparsed(best.unparsed)}"
    if not vector.winner:
        yield "  choice.yaml still holds this cell: do not report it as one that helps"
    if vector.cells_tried > 1 and n_images != 1:
        corrected = "" if harms else "; p is corrected for the choice"
        yield f"  each 95% interval is of its cell alone{corrected}"
    if not harms:
        yield from _p_lines(vector, n, adaptive, n_images)
    yield f"  damage: {format_damage(best)}"
    rule = "the cell with the smallest |alpha| within one standard error of the best"
    if format_cell(cautious) == format_cell(best):
        yield f"  it is also {rule}"
    else:
        yield f"  {rule}: {format_cell(cautious)}: {format_gain(cautious)}"
    if vector.controls:
        yield f"  random vectors of the same norms, searched in the same way: {_gains(vector.controls.values())}"
        yield f"  their damage: {'; '.join(map(_short_damage, vector.controls.values()))}"
        largest = max(control.gain for control in vector.controls.values())
        if vector.winner and largest >= SIMILAR_SHARE * best.gain:
            share = f"{largest / best.gain:.0%}"
            yield f"  WARNING: a random vector gains {share} of that: compare with it, not with the baseline"


def _p_lines(vector: VectorResult, n: int, adaptive: bool, n_images: int | None) -> Iterator[str]:
    scope, counted = "any of the cells", ""
    if vector.finalists < vector.cells_tried:
        scope = "the only finalist" if vector.finalists == 1 else f"any of the {vector.finalists} finalists"
    if vector.counted_on < n:
        counted = f"; counted on the {vector.counted_on} questions that had no part in dropping cells"
    if vector.counted_gain is not None:
        counted += f": {format_points(100 * vector.counted_gain)} points there"
    caveat = "; does not account for later trials following earlier ones" if adaptive else ""
    chance = f"probability of a gain this large in {scope} if none had an effect"
    yield f"  p = {vector.p_corrected:.3g}: {chance} (max-T{counted}{caveat})"
    if not vector.winner and (power := measured_power_line(vector, n_images)):
        yield f"  {power}"


def _target_line(tokens: str, target: VectorResult) -> str:
    best = target.best
    random = f"; random: {_gains(target.controls.values())}" if target.controls else ""
    p = f"p = {target.p_corrected:.3g} among the {target.cells_tried} cells of this target"
    cell = f"layer={best.layer},alpha={best.alpha:g}"
    return f"  tokens={tokens}: {cell}: {format_gain(best)}, {p}{random} -> choice_{tokens}.yaml"


def _blank_lines(name: str, vector: VectorResult, blank: ConfirmationResult) -> Iterator[str]:
    gain = blank.vectors[name]
    yield f"  with every image grey, so without sight: {format_gain(gain)} (baseline there {blank.baseline:.3f})"
    if vector.winner and gain.gain >= SIMILAR_SHARE * vector.best.gain:
        yield f"  WARNING: {gain.gain / vector.best.gain:.0%} of the gain is there without an image: it is not sight"


def _confirmation_line(plan: Plan, name: str, confirmed: ConfirmationResult) -> str:
    chosen = confirmed.vectors[name]
    controls = [confirmed.vectors[control] for control in plan.controls_of(name).values()]
    unparsed = _unparsed(chosen.unparsed, confirmed.baseline_unparsed)
    random = f"; random: {_gains(controls)}" if controls else ""
    line = f"  on {confirmed.n} other questions ({confirmed.task}): {format_gain(chosen)}{unparsed}{random}"
    return f"{line}; damage: {format_damage(chosen)}"


def _bias_line(plan: Plan, calibrated: CalibrationResult) -> str:
    line = f"answer biases fitted on the same questions, without touching the model: {format_gain(calibrated)}"
    if plan.score == "letters":
        return line
    among = f"among the choices only (baseline there {calibrated.baseline:.3f})"
    return f"{line} {among}; evaluate with answer_bias.yaml to see the effect on generated answers"


def _unparsed_warnings(plan: Plan, result: SearchResult) -> Iterator[str]:
    measured: dict[str, dict[str, float | None]] = {plan.task: {"baseline": result.baseline_unparsed}}
    measured[plan.task] |= {name: vector.best.unparsed for name, vector in result.vectors.items()}
    if result.confirmed is not None:
        confirmed = {name: cell.unparsed for name, cell in result.confirmed.vectors.items()}
        measured[result.confirmed.task] = {"baseline": result.confirmed.baseline_unparsed, **confirmed}
    for task, shares in measured.items():
        known = {name: share for name, share in shares.items() if share is not None}
        warning = unparsed_warning(task, known, "a search keeps no texts: evaluate choice.yaml with --log_samples")
        if warning:
            yield f"WARNING: {warning}"


def _unparsed(share: float | None, baseline: float | None = None) -> str:
    """The share of unparsed answers, and the baseline's; "" where it is unknown."""
    if share is None:
        return ""
    compared = "" if baseline is None else f" (baseline {format_share(baseline)})"
    return f", unparsed {format_share(share)}{compared}"


def _short_damage(cell: CellResult) -> str:
    kl = "" if cell.kl is None else f"KL {cell.kl:.3g}, "
    return f"{kl}{cell.broken} broken, {cell.fixed} mended"


def _gains(cells: Iterable[CellResult]) -> str:
    return ", ".join(format_points(100 * cell.gain) for cell in cells)
