"""The paper's Section 3 toy: add one colour's vector to the image tokens, and watch the answer's colour change."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lmms_steer._util.io import write_atomically
from lmms_steer.demo.layout import MODEL, SEEDS, Folders
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.search.replay import Replay
from lmms_steer.tiny_world.scenes import CELLS, SHAPES, STYLES, Thing, random_seed, render
from lmms_steer.vectors.controls import random_like
from lmms_steer.vectors.steering_vectors import SteeringVectors

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
LAYERS = (0, 1, 2, 3)
SCENES = 200


def measure(folders: Folders, scenes: int = SCENES) -> dict[str, Any]:
    """P(red), over the whole vocabulary, for single yellow and orange objects: vector ▸ layer ▸ one value an alpha."""
    lm = SteeredPaliGemma(pretrained=MODEL)
    replay = Replay(lm.model, lm.model_inputs(*_asked(scenes)))
    red = lm.first_token("red")
    vectors = {colour: SteeringVectors.load(folders.vector(f"colour-{colour}")) for colour in ("red", "blue")}
    vectors |= {f"random-{seed}": random_like(vectors["red"], seed) for seed in SEEDS}
    curves: dict[str, dict[str, list[float]]] = {}
    for name, vector in vectors.items():
        curves[name] = {
            str(layer): [
                float(
                    replay.steer(layer, torch.from_numpy(vector[layer].copy()) * alpha, "image")
                    .softmax(-1)[:, red]
                    .mean()
                )
                for alpha in ALPHAS
            ]
            for layer in LAYERS
        }
    return {"n": scenes, "alphas": list(ALPHAS), "p_red": curves}


def _asked(scenes: int) -> tuple[list[str], list[list[Image.Image]]]:
    rng = random.Random(77)
    pictures, questions = [], []
    for _ in range(scenes):
        thing = Thing(rng.randrange(CELLS), rng.choice(("yellow", "orange")), rng.choice(SHAPES))
        pictures.append([Image.fromarray(render((thing,), STYLES["plain"], random_seed(rng)))])
        questions.append(f"what colour is the {thing.shape} ?")
    return questions, pictures


def run_curve(folder: Path) -> Iterator[str]:
    """`lmms-steer demo curve`."""
    folders = Folders(folder)
    found = measure(folders)
    write_atomically(folders.curve, json.dumps(found, indent=1).encode())
    red = found["p_red"]["red"]["0"]
    yield (
        f"P(red) of yellow and orange things, layer 0: {red[0]:.3f} at alpha 0, {red[ALPHAS.index(1.0)]:.3f} at alpha 1"
    )
