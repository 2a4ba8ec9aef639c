"""What a search says at its end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmms_steer._util import formatting as words
from lmms_steer.search.plan import Plan


def report_lines(plan: Plan, found: dict[str, Any], output: Path, confirm: str | None) -> Iterator[str]:
    """The choice of each vector, beside it what was searched alike, and where the files are."""
    shared = f", {found['images']} images," if "images" in found else ""
    unread = _unparsed(found.get("baseline_unparsed"))
    yield f"baseline {found['baseline']:.3f} on {plan.n} questions{shared} of {plan.task}{unread}"
    confirmed = found.get("confirmed")
    for name, told in found["vectors"].items():
        yield from _choice(plan, name, told)
        if confirmed is not None:
            of_controls = [confirmed["vectors"][control]["gain"] for control in plan.controls_of(name).values()]
            beside = f"; random: {_gains(of_controls)}" if of_controls else ""
            chosen = confirmed["vectors"][name]
            unread = _unparsed(chosen.get("unparsed"), confirmed.get("baseline_unparsed"))
            yield f"  on {confirmed['n']} other questions ({confirmed['task']}): {format_gain(chosen)}{unread}{beside}"
        folder = plan.folder(output, name)
        yield f"  -> {folder / 'choice.yaml'}, for --model_args steering=…"
    if "calibrated" in found:
        yield _biases(plan, found["calibrated"])
    else:
        yield "no answer biases: the answers are not of one small set of words"
    if confirm is None:
        yield "the choice was made on these questions: measure it on others before you report it (--confirm TASK)"


def _choice(plan: Plan, name: str, told: dict[str, Any]) -> Iterator[str]:
    best, near = told["best"], told["one_standard_error"]
    verdict = "best" if best["winner"] else "no winner; the best"
    told_best = f"{format_cell(best)}: {format_gain(best)}{_unparsed(best.get('unparsed'))}"
    yield f"{name}: {verdict} of {best['cells_tried']} cells: {told_best}"
    if not best["winner"]:
        yield "  choice.yaml holds this cell all the same: do not report it as one that helps"
    counted = "any of them"
    if best["finalists"] < best["cells_tried"]:
        counted = (
            f"any of the {best['finalists']} finalists, on {best['counted_on']} questions by which none was dropped"
        )
    adaptive = "; later trials followed earlier ones, which it does not know" if plan.strategy == "tpe" else ""
    yield f"  p = {best['p_corrected']:.3g}: how often chance alone gains as much in {counted} (max-T{adaptive})"
    yield f"  the weakest cell within one standard error of the best: {format_cell(near)}: {format_gain(near)}"
    if told["controls"]:
        gains = _gains([control["gain"] for control in told["controls"].values()])
        yield f"  random vectors of the same norms, searched in the same way: {gains}"


def _biases(plan: Plan, told: dict[str, Any]) -> str:
    line = f"answer biases fitted on the same questions, without touching the model: {format_gain(told)}"
    if plan.score == "letters":
        return line
    beside = f"among the choices only (baseline there {told['baseline']:.3f})"
    return f"{line} {beside}; evaluate with answer_bias.yaml to see what is written"


def format_cell(told: dict[str, Any]) -> str:
    """A cell as a spec says it."""
    return f"layer={told['layer']},alpha={told['alpha']:g},tokens={told['tokens']}"


def format_gain(told: dict[str, Any]) -> str:
    """A gain in points with its interval."""
    gain, low, high = (words.format_points(100 * told[key]) for key in ("gain", "low", "high"))
    return f"{gain} points [{low}, {high}]"


def _unparsed(share: float | None, base: float | None = None) -> str:
    """The share of answers that could not be read, and the baseline's; "" where it is unknown."""
    if share is None:
        return ""
    return f", unparsed {words.format_share(share)}" + (
        f" (baseline {words.format_share(base)})" if base is not None else ""
    )


def _gains(gains: list[float]) -> str:
    return ", ".join(words.format_points(100 * gain) for gain in gains)
