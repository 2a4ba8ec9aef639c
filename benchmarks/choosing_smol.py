"""Layer scores on a pretrained model of 30 layers: which of them finds the layers where a vector works?

python benchmarks/choosing_smol.py --output FOLDER [--planted colour-red,colour-blue] [--null spatial,counting]

On smol-idefics3 (`make smol-model`), image tokens. Planted: the vector of a colour is added at one layer, on pictures
of things in other colours; how well it works there is the largest mean probability of the colour's word among three
alphas. Null: vectors with which a search found nothing (docs/pretrained.md). What is measured is kept in FOLDER and not
measured again. Writes choosing-smol.md and choosing-smol.png.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from scipy.stats import spearmanr
from transformers.utils import logging

import lmms_steer
from lmms_steer.harness.steered import create_model
from lmms_steer.plots.style import BLUE, DARK_GREY, GREY, VERMILLION, figure_maker, figure_style, save_figure
from lmms_steer.search.layer_scores import layer_scores
from lmms_steer.search.scored_layers import best_layer
from lmms_steer.steering.facts import facts_of_config
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.word_curves.measure import coloured_things, measure_curves

MODEL, MODEL_ARGS, LAYERS = "steered_idefics3", "pretrained=smol-idefics3,dtype=bfloat16", 30
ALPHAS = (1.0, 2.0, 4.0)
PROMPT = "What colour is the {shape}? Answer with one word."
TASKS = {"spatial": "smol_relation_select", "counting": "smol_counting_select"}
"""Vector ▸ the task whose questions its scores read; of a colour, the colour questions."""
WORKS = 0.8
"""From this share of the best layer's probability on, a vector counts as working at a layer."""

ByLayer = Mapping[int, float]


def scores_of(vector: str, questions: int) -> dict[str, dict[int, float]]:
    """All layer scores of a vector."""
    task = TASKS.get(vector, "smol_colour_select")
    found = lmms_steer.layers(MODEL_ARGS, vector, model=MODEL, task=task, limit=questions).scores
    return {name: dict(by_layer) for name, by_layer in found.items()}


def effect_of(vector: str, pictures: int) -> dict[int, float]:
    """The largest mean probability of a colour's word at each layer."""
    lm, word = create_model(MODEL, MODEL_ARGS), vector.split("-")[1]
    facts = facts_of_config(lm.config, lm.pretrained)
    spec = SteeringSpec.parse(f"vector={vector},layer=0,alpha=1,tokens=image")
    vectors = {vector: resolve(spec, facts).vectors[0]}
    questions, word_id = coloured_things(pictures, ("yellow", "orange"), PROMPT), lm.first_token(word)
    (curves,), _ = measure_curves(lm, questions, [word_id], vectors, range(LAYERS), ALPHAS, "image", 16)
    return {layer: max(points.mean) for layer, points in curves[vector].items()}


def kept(path: Path, measure: Callable[[], object]) -> object:
    """What a file holds; what is measured now if there is none."""
    if not path.exists():
        path.write_text(json.dumps(measure(), indent=1))
        print(path, flush=True)
    return json.loads(path.read_text(), object_hook=_with_layers)


def _with_layers(data: dict[str, object]) -> dict[object, object]:
    # JSON has no numbers as keys
    return {int(key) if key.isdecimal() else key: value for key, value in data.items()}


def working(effect: ByLayer) -> list[int]:
    """The layers where a vector works."""
    return [layer for layer, p in effect.items() if p >= WORKS * max(effect.values())]


def table(scores: Mapping[str, Mapping[str, ByLayer]], effects: Mapping[str, ByLayer]) -> Iterator[str]:
    """The table, in Markdown.

    Args:
        scores: vector ▸ score ▸ layer ▸ value.
        effects: planted vector ▸ layer ▸ P(word).
    """
    null = [vector for vector in scores if vector not in effects]
    planted = [f"{vector}: rank correlation | its best layer, P there" for vector in effects]
    yield f"| score | {' | '.join([*planted, *(f'{vector}: best layer' for vector in null)])} |"
    yield "|---|" + "---|" * (2 * len(effects) + len(null))
    for name in sorted(layer_scores.names()):
        cells = []
        for vector, effect in effects.items():
            own = scores[vector].get(name)
            best = best_layer(own) if own else None
            if own is None or best is None:
                cells += ["–", "the same at all layers" if own else "not computed"]
                continue
            rho = spearmanr([own[layer] for layer in effect], list(effect.values())).statistic
            cells += [f"{rho:+.2f}", f"{best}, {effect[best]:.2f}"]
        cells += [str(best_layer(scores[v][name])) if name in scores[v] else "not computed" for v in null]
        yield f"| `{name}` | {' | '.join(cells)} |"
    yield ""
    for vector, effect in effects.items():
        best = max(effect, key=lambda layer: effect[layer])
        works = ", ".join(map(str, working(effect)))
        yield f"{vector}: P(word) at most {effect[best]:.2f}, at layer {best}; works at {works}"


@figure_style()
def draw(scores: Mapping[str, Mapping[str, ByLayer]], effects: Mapping[str, ByLayer], path: Path) -> None:
    """Draw a panel for the effect and one for each score, with the layers where the first vector works in grey."""
    names = sorted({name for own in scores.values() for name in own})
    figure, axes = figure_maker().subplots(2, 4, figsize=(9.6, 4.2), layout="constrained")
    colours = dict(zip(scores, (VERMILLION, BLUE, DARK_GREY, GREY), strict=False))
    shaded = working(next(iter(effects.values())))
    panels: Sequence[tuple[str, Mapping[str, ByLayer]]] = [
        ("P(word): where it works", effects),
        *((name, {vector: own[name] for vector, own in scores.items() if name in own}) for name in names),
    ]
    flat = list(axes.flat)
    for axis, (title, lines) in zip(flat, panels, strict=False):
        for layer in shaded:
            axis.axvspan(layer - 0.5, layer + 0.5, color=GREY, alpha=0.15, linewidth=0)
        for vector, by_layer in lines.items():
            layers = sorted(by_layer)
            axis.plot(layers, [by_layer[n] for n in layers], color=colours[vector], linewidth=1.3)
        axis.set(title=title, xlabel="layer")
    for vector, colour in colours.items():
        flat[-1].plot([], [], color=colour, label=f"{vector} ({'planted' if vector in effects else 'null'})")
    for axis in flat[len(panels) :]:
        axis.set_axis_off()
    flat[-1].legend(loc="center")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--planted", default="colour-red,colour-blue")
    parser.add_argument("--null", default="spatial,counting")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=16)
    options = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    folder, planted = options.output, options.planted.split(",")
    folder.mkdir(parents=True, exist_ok=True)
    effects, scores = dict[str, ByLayer](), dict[str, Mapping[str, ByLayer]]()
    for vector in planted:
        effects[vector] = kept(folder / f"effect-{vector}.json", lambda v=vector: effect_of(v, options.pictures))  # type: ignore[assignment,misc]
    for vector in [*planted, *filter(None, options.null.split(","))]:
        scores[vector] = kept(folder / f"scores-{vector}.json", lambda v=vector: scores_of(v, options.questions))  # type: ignore[assignment,misc]
    text = "\n".join(table(scores, effects))
    (folder / "choosing-smol.md").write_text(text + "\n")
    draw(scores, effects, folder / "choosing-smol.png")
    print(text)


if __name__ == "__main__":
    main()
