"""The page's pictures, as SVG that a browser shows without a network."""

import io
import re
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from lmms_steer.plots import heatmap as heat

# blue, orange and grey: told apart by a colour-blind reader, and each has a mark of its own
BLUE, ORANGE, GREY = "#1f6fb4", "#d9670b", "#8a8f98"


def _svg(figure: Figure, name: str) -> str:
    # the salt goes into the ids of the drawing's parts, which must differ between drawings on one page
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # names such as axes_1 are in every drawing: only the ids that something in the drawing points to stay
    used = set(re.findall(r"#([\w-]+)", text))
    return re.sub(r' id="([^"]*)"', lambda match: match.group(0) if match.group(1) in used else "", text)


def colour_curve(curve: dict[str, Any]) -> str:
    """P(red) against alpha at layers 0, 1 and 3: red's vector, blue's, and the range of five random ones."""
    layers = ["0", "1", "3"]
    figure = Figure(figsize=(9.5, 3.1))
    axes = figure.subplots(1, len(layers), sharey=True)
    alphas, p = curve["alphas"], curve["p_red"]
    randoms = [name for name in p if name.startswith("random")]
    for axis, layer in zip(axes, layers, strict=True):
        values = np.array([p[name][layer] for name in randoms])
        axis.fill_between(alphas, values.min(0), values.max(0), color=GREY, alpha=0.3, linewidth=0)
        axis.plot(alphas, values.max(0), color=GREY, linestyle=":", label="largest of 5 random vectors")
        axis.plot(alphas, p["blue"][layer], color=ORANGE, marker="s", markersize=4, label="blue's vector")
        axis.plot(alphas, p["red"][layer], color=BLUE, marker="o", markersize=5, label="red's vector")
        axis.set(title=f"layer {layer}", xlabel="alpha", ylim=(-0.03, 1.03))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("P(red)")
    axes[-1].legend(frameon=False, fontsize=8, loc="upper left")
    return _svg(figure, "curve")


def search_map(task: str, search: dict[str, Any]) -> str:
    """Accuracy gained on the select split by mean shift, in points: layer x alpha, one map a token target."""
    best, cells = search["best"], search["cells"]
    layers, alphas = (tuple(sorted({cell[key] for cell in cells})) for key in ("layer", "alpha"))
    most = heat.colour_limit(100 * cell["gain"] for cell in cells)
    figure = Figure(figsize=(9.5, 2.4))
    targets = list(dict.fromkeys(cell["tokens"] for cell in cells))
    for target, axis in zip(targets, figure.subplots(1, len(targets), sharey=True, squeeze=False)[0], strict=True):
        mine = {(cell["layer"], cell["alpha"]): 100 * cell["gain"] for cell in cells if cell["tokens"] == target}
        chosen = (best["layer"], best["alpha"]) if best["tokens"] == target else None
        heat.draw_heatmap(axis, heat.HeatMap(mine, layers, alphas, chosen), most, numbers=True)
        axis.set_title(f"{target} tokens")
    figure.axes[0].set_ylabel("layer")
    return _svg(figure, task)
