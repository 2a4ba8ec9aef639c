"""Write runs of a baseline, a steered model and a control whose scores follow from their answers, and make a board."""

import atexit
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from shutil import copytree, rmtree
from tempfile import mkdtemp
from typing import Any

from lmms_steer.board.adding import Addition, add_runs
from lmms_steer.board.templates import init_board
from lmms_steer.vectors.controls import make_control
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.vectors.store import load_vectors
from tests.helpers.runs import BASE, STEERED, write_run

TASK = "tiny_spatial"
CHOSEN = {"chosen_on": "tiny_spatial_select", "some_questions": "0123456789abcdef"}
VERSIONS = {"lmms-steer": "0.1.0", "lmms-eval": "0.7.3", "transformers": "5.23.0", "torch": "2.15.0"}
SPEC = "vector=tiny-gemma2/spatial/mean_shift,layer=2,alpha=0.25,tokens=image"


def shipped_vector(control: str = "") -> SteeringVectors:
    vector = load_vectors("tiny-gemma2/spatial/mean_shift")
    return make_control(vector, control, load_vectors, ["spatial"]) if control else vector


def write_system(
    folder: Path,
    scores: Sequence[float],
    control: str = "",
    steered: bool = True,
    record: Any = None,
    task: str = TASK,
    pretrained: str = "tiny-paligemma2",
    **more: Any,
) -> Path:
    """Write a run of `TASK`, whose correct answer is `above` and whose wrong one is `below`.

    Args:
        folder: of the run.
        scores: of the questions.
        control: of the spec.
        steered: whether there is a spec at all.
        record: entries of the steering record to add or replace.
        task: another task than `TASK`.
        pretrained: in the model's arguments.
        more: arguments of `write_run`.
    """
    steering: dict[str, Any] = {"model": "tiny-paligemma2", "spec": "", "vectors": [], "versions": VERSIONS}
    if steered:
        vector = shipped_vector(control)
        steering |= {
            "spec": SPEC + (f",control={control}" if control else ""),
            "sha256": "5" * 64,
            "vectors": [{"name": vector.name, "sha256": vector.sha256}],
            "provenance": CHOSEN,
        }
    model_args = f"pretrained={pretrained}"
    return write_run(
        folder,
        {task: scores},
        answer=lambda number, score: "above" if score else "below",
        spec=None,
        results={"steering": {**steering, **(record or {})}, "model_name": "tiny", **more.pop("results", {})},
        config={
            "model_args": model_args,
            "resolved_cli_args": {"model": "steered_paligemma", "model_args": model_args},
            **more.pop("config", {}),
        },
        sample=more.pop("sample", {"choices": ["above", "below"]}),
        **more,
    )


@cache
def _template() -> Path:
    folder = Path(mkdtemp(prefix="board-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    list(init_board(folder / "board", "Tiny", ""))
    runs = folder / "runs"
    write_system(runs / "baseline", BASE, steered=False)
    write_system(runs / "steered", STEERED)
    write_system(runs / "random", BASE[:-2] + [1.0, 0.0], control="random:0")
    list(add_runs(folder / "board", [str(runs)], Addition(by="somebody")))
    return folder


def make_board(folder: Path) -> Path:
    """Make a board with a baseline, a steered entry and a random control on 100 questions; the runs are beside it."""
    copytree(_template() / "runs", folder.parent / "runs")
    return Path(copytree(_template() / "board", folder))
