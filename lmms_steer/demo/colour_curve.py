"""The toy experiment of the paper's Section 3: add a colour's vector to the image tokens and measure the answer.

`lmms-steer demo curve` runs it.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from lmms_steer.demo.layout import MODEL, SEEDS, Folders
from lmms_steer.demo.results import ColourCurve, write_curve
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.search.replay import Replay
from lmms_steer.tiny_world.scenes import CELLS, SHAPES, STYLES, Thing, random_seed, render
from lmms_steer.vectors.controls import random_like
from lmms_steer.vectors.steering_vectors import SteeringVectors

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
LAYERS = (0, 1, 2, 3)
SCENES = 200
_SEED = 77


def measure(folders: Folders, scenes: int = SCENES) -> ColourCurve:
    """Measure P(red), over the whole vocabulary, for images of one yellow or orange object.

    Args:
        folders: of the recipe, with the vectors of red and blue.
        scenes: the number of images.

    Returns:
        The mean over images, for red's and blue's vectors and for random ones of red's norms.
    """
    lm = SteeredPaliGemma(pretrained=MODEL)
    replay = Replay(lm.model, lm.model_inputs(*_questions(scenes)))
    red = lm.first_token("red")
    vectors = {colour: SteeringVectors.load(folders.vector(f"colour-{colour}")) for colour in ("red", "blue")}
    vectors |= {f"random-{seed}": random_like(vectors["red"], seed) for seed in SEEDS}

    def p_red(vector: SteeringVectors, layer: int, alpha: float) -> float:
        logits = replay.steer(layer, torch.from_numpy(vector[layer].copy()) * alpha, "image")
        return float(logits.softmax(-1)[:, red].mean())

    curves = {
        name: {layer: [p_red(vector, layer, alpha) for alpha in ALPHAS] for layer in LAYERS}
        for name, vector in vectors.items()
    }
    return ColourCurve(scenes, ALPHAS, curves)


def run_curve(folder: Path) -> Iterator[str]:
    """Run `lmms-steer demo curve`: measure the curve and write it into the recipe's folder.

    Yields:
        A line with the result.
    """
    folders = Folders(folder)
    curve = measure(folders)
    write_curve(curve, folders.curve)
    red = curve.p_red["red"][0]
    yield (
        f"P(red) of yellow and orange things, layer 0: {red[0]:.3f} at alpha 0, {red[ALPHAS.index(1.0)]:.3f} at alpha 1"
    )


def _questions(count: int) -> tuple[list[str], list[list[Image.Image]]]:
    """Draw images of one object each, with the question for its colour."""
    rng = random.Random(_SEED)
    images, questions = [], []
    for _ in range(count):
        thing = Thing(rng.randrange(CELLS), rng.choice(("yellow", "orange")), rng.choice(SHAPES))
        images.append([Image.fromarray(render((thing,), STYLES["plain"], random_seed(rng)))])
        questions.append(f"what colour is the {thing.shape} ?")
    return questions, images
