"""The toy experiment of the paper's Section 3: add a colour's vector to the image tokens and measure the answer.

`lmms-steer demo curve` runs it.
"""

from collections.abc import Iterator
from pathlib import Path

from lmms_steer.demo.layout import MODEL, SEEDS, Folders
from lmms_steer.demo.results import ColourCurve, write_curve
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.word_curves.measure import coloured_things, measure_curves, with_random

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
LAYERS = (0, 1, 2, 3)
SCENES = 200
SHOWN = ("yellow", "orange")
PROMPT = "what colour is the {shape} ?"


def measure(folders: Folders, scenes: int = SCENES) -> ColourCurve:
    """Measure P(red), over the whole vocabulary, for images of one yellow or orange object.

    Args:
        folders: of the recipe, with the vectors of red and blue.
        scenes: the number of images.

    Returns:
        The mean over images, for red's and blue's vectors and for random ones of red's norms.
    """
    lm = SteeredPaliGemma(pretrained=MODEL)
    vectors = {colour: SteeringVectors.load(folders.vector(f"colour-{colour}")) for colour in ("red", "blue")}
    questions = coloured_things(scenes, SHOWN, PROMPT)
    measured = with_random(vectors, len(SEEDS))
    (curves,), _ = measure_curves(lm, questions, [lm.first_token("red")], measured, LAYERS, ALPHAS, "image", scenes)
    p_red = {name: {layer: points.mean for layer, points in layers.items()} for name, layers in curves.items()}
    return ColourCurve(scenes, ALPHAS, p_red)


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
