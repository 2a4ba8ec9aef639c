"""Steer videos and audio in a tiny random model of every architecture that takes them: `python -m tests.media_matrix`.

As in `tests.support_matrix`, the reference is a hook written here, at positions counted here: those of the ids that the
model's own forward replaces by features. There are no pictures and no sounds: what is steered depends on the ids alone.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING

from lmms_steer import UserError, steer
from lmms_steer.errors import first_line
from lmms_steer.steering.placeholders import hides, placeholders
from lmms_steer.steering.support import check_config
from tests.helpers.architectures import ARCHITECTURES, AUDIO, END, IMAGE, MULTIMODAL, START, VIDEO, inputs, model
from tests.helpers.outcomes import Rows, sections
from tests.support_matrix import ALPHA, NEW, TOLERANCE, Differs, V, compare, logits, outcome, reference, spec

IN_SPANS = ("glm46v", "glm4v", "glm4v_moe", "glm5_next", "glm_ocr", "glmga")
"""Architectures that put a video on image tokens, between a start and an end token."""
ON_IMAGES = ("internvl", "smolvlm", "molmo2", "nemotron_h_omni")
"""Architectures that mark a video as images."""
KINDS = ("video", "audio")
COLUMNS = (*KINDS, "text", "generate", "batch")
START_OF_PAGE, END_OF_PAGE = "<!-- media matrix -->", "<!-- /media matrix -->"


def ids_of(kind: str, architecture: str) -> Tensor:
    """Two prompts with an image where there are images, and with what is steered; the second is padded."""
    if architecture in IN_SPANS:
        rows = [[50, 51, IMAGE, START, IMAGE, IMAGE, END, 60, 61], [0, 0, 70, START, IMAGE, 71, IMAGE, END, 72]]
    else:
        of = {"video": VIDEO, "audio": AUDIO}[kind]
        image = IMAGE if architecture in ARCHITECTURES and architecture != "instructblipvideo" else 55
        rows = [[50, 51, image, 52, of, of, 53, 60, 61], [0, 0, 70, 71, of, 74, 75, 72, 73]]
    return torch.tensor(rows)


def positions(ids: Tensor, kind: str, architecture: str, end: int) -> Tensor:
    """The positions of a kind among the first `end`, counted one by one."""
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    for row in range(len(ids)):
        in_video = False
        for column in range(end):
            token = int(ids[row, column])
            in_video = (in_video or token == START) and token != END
            is_video = token == IMAGE and in_video if architecture in IN_SPANS else token == VIDEO
            shown = {"image": token == IMAGE and not is_video, "video": is_video, "audio": token == AUDIO}
            chosen[row, column] = (not any(shown.values()) and token != 0) if kind == "text" else shown[kind]
    return chosen


def forward(made: Any, architecture: str, kind: str, tokens: str) -> str:
    ids = ids_of(kind, architecture)
    with steer(made, spec(tokens), {"v": V}):
        pass
    with reference(made, positions(ids, tokens, architecture, ids.shape[1]), ALPHA):
        expected = logits(made, ids)
    if not (expected - logits(made, ids))[ids != 0].abs().max() > 10 * TOLERANCE:
        raise Differs("the reference changes nothing")
    with steer(made, spec(tokens), {"v": V}):
        return compare(logits(made, ids), expected, ids)


def generate(made: Any, architecture: str, kind: str) -> str:
    ids = ids_of(kind, architecture)
    options: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    options |= {"pad_token_id": 0, "eos_token_id": 1, "return_dict_in_generate": True, "output_logits": True}
    options |= {"suppress_tokens": [0, IMAGE, VIDEO, AUDIO, START, END]}

    def apart(strength: float, line: str) -> float:
        with steer(made, line, {"v": V}):
            output = made.generate(**inputs(made, ids), **options)
        with reference(made, positions(output.sequences, kind, architecture, ids.shape[1]), strength):
            expected = logits(made, output.sequences)[:, ids.shape[1] - 1 : -1]
        return float((torch.stack(output.logits, 1).float() - expected).abs().max()) / max(
            1.0, float(expected.abs().max())
        )

    steered = apart(ALPHA, spec(kind))
    if steered < TOLERANCE:
        return "exact"
    unsteered = apart(0.0, spec(kind, alpha=0))
    if unsteered > TOLERANCE:
        return f"not comparable: with a cache the unsteered model is off by {unsteered:.1g} too"
    raise Differs(f"off by {steered:.2g}")


def batch(made: Any, architecture: str, kind: str) -> str:
    ids = ids_of(kind, architecture)
    with steer(made, spec(kind), {"v": V}):
        together, single = logits(made, ids)[1:, -1], logits(made, ids[1:, 2:])[:, -1]
    try:
        return compare(together, single)
    except Differs:
        if (logits(made, ids)[1:, -1] - logits(made, ids[1:, 2:])[:, -1]).abs().max() > TOLERANCE:
            return "not comparable: the unsteered model's batches differ too"
        raise


def takes(architecture: str) -> list[str]:
    """The kinds of media beside images that an architecture takes."""
    config = CONFIG_MAPPING[architecture]()
    if architecture == "instructblipvideo":
        # its default config names no id
        config.video_token_id = VIDEO
    # the default config of Gemma 4 has no audio tower, and that of Nemotron names no ids
    kinds = [k for k in KINDS if k in placeholders(config).kinds or hides(config, k)]
    return ["video", *kinds] if architecture in ON_IMAGES else kinds


def row(architecture: str) -> dict[str, str]:
    """Column ▸ as in `tests.support_matrix.row`; `` for what an architecture does not take."""
    try:
        check_config(CONFIG_MAPPING[architecture](), architecture)
    except UserError as error:
        return {"all": f"refused: {str(error).split(': ', 1)[1]}"}
    kinds = takes(architecture)
    try:
        made = model(architecture)
        # Qwen-Omni has no forward of its own
        made = getattr(made, "thinker", made)
        if kinds[0] in placeholders(made.config).kinds:
            logits(made, ids_of(kinds[0], architecture))
    except Exception as error:  # noqa: BLE001  whatever keeps a tiny model from being made is the row's text
        return {"all": f"not made: {type(error).__name__}: {first_line(error)[:90]}"}
    checks: dict[str, Callable[[], str]] = {k: partial(forward, made, architecture, k, k) for k in kinds}
    if kinds[0] in placeholders(made.config).kinds:
        checks["text"] = partial(forward, made, architecture, kinds[0], "text")
        checks |= {"generate": partial(generate, made, architecture, kinds[0])}
        checks |= {"batch": partial(batch, made, architecture, kinds[0])}
    return {column: outcome(checks[column]) if column in checks else "" for column in COLUMNS}


def table(rows: Rows) -> str:
    """What the documentation's page has between its marks."""
    return "\n".join([START_OF_PAGE, "", *sections(rows, COLUMNS, level="###"), "", END_OF_PAGE])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="the page whose table to write")
    parser.add_argument("architectures", nargs="*", help="by default all that take video or audio")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    names = args.architectures or [name for name in ARCHITECTURES + MULTIMODAL if takes(name)]
    rows: Rows = {}
    for name in names:
        rows[name] = row(name)
        print(name, rows[name], flush=True)  # noqa: T201
    if args.output:
        before, rest = args.output.read_text(encoding="utf-8").split(START_OF_PAGE)
        after = rest.split(END_OF_PAGE)[1]
        args.output.write_text(f"{before}{table(rows)}{after}", encoding="utf-8")
    sys.exit(any(cell.startswith("WRONG") for cells in rows.values() for cell in cells.values()))


if __name__ == "__main__":
    main()
