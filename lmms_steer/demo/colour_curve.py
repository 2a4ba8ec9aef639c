"""The paper's Section 3 toy: add one colour's vector to the image tokens, and watch the answer's colour change."""

import json
import random
from typing import Any

import torch
from PIL import Image

from lmms_steer.demo.plan import BACKBONE, MODEL, RANDOM_SEEDS, Folders
from lmms_steer.models.families import SteeredPaliGemma
from lmms_steer.search.replay import Replay
from lmms_steer.tiny_world.render import STYLES, random_seed, render
from lmms_steer.tiny_world.world import CELLS, SHAPES, Thing
from lmms_steer.vectors import SteeringVectors, write_atomically

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
LAYERS = (0, 1, 2, 3)
SCENES = 200


def measure(folders: Folders, scenes: int = SCENES) -> dict[str, Any]:
    """P(red), over the whole vocabulary, for single yellow and orange objects: vector ▸ layer ▸ one value an alpha."""
    lm = SteeredPaliGemma(pretrained=MODEL)
    rng = random.Random(77)
    pictures, questions = [], []
    for _ in range(scenes):
        thing = Thing(rng.randrange(CELLS), rng.choice(("yellow", "orange")), rng.choice(SHAPES))
        pictures.append([Image.fromarray(render((thing,), STYLES["plain"], random_seed(rng)))])
        questions.append(f"what colour is the {thing.shape} ?")
    replay = Replay(lm.model, lm.model_inputs(questions, pictures))
    red = lm.first_token("red")
    folder = folders.vectors / BACKBONE
    vectors = {
        colour: SteeringVectors.load(folder / f"colour-{colour}" / "mean_shift.safetensors")
        for colour in ("red", "blue")
    }
    for seed in RANDOM_SEEDS:
        vectors[f"random-{seed}"] = SteeringVectors.load(folder / "colour-red" / f"random-{seed}.safetensors")
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


def colour_curve(folders: Folders) -> str:
    """The demo's step."""
    if folders.curve.is_file():
        return "kept"
    found = measure(folders)
    write_atomically(folders.curve, json.dumps(found, indent=1).encode())
    red = found["p_red"]["red"]["0"]
    return (
        f"P(red) of yellow and orange things, layer 0: {red[0]:.3f} at alpha 0, {red[ALPHAS.index(1.0)]:.3f} at alpha 1"
    )
