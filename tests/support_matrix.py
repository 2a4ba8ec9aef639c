"""Steer a tiny random model of every architecture and compare it with a reference: `python -m tests.support_matrix`.

The reference is written here from the definition h' = h + alpha v: one pass without a cache, by a hook of its own at
positions counted here. Images are placeholder ids without pictures, which all architectures take: what is steered
depends on the ids alone. The architectures that run only with a picture get a random one, and Kosmos the mask that it
reads instead of ids. Encoder-decoders have a picture in the encoder, and are steered in the decoder.
"""

import argparse
import importlib.metadata
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING

from lmms_steer import UserError, continuation, steer
from lmms_steer.errors import first_line
from lmms_steer.inspection.prompt import inspect_prompt
from lmms_steer.replay.engine import try_replay
from lmms_steer.replay.setup import ReplayOptions
from lmms_steer.steering.anatomy import remember_norms
from lmms_steer.steering.hooks import attach
from lmms_steer.steering.support import check_config
from tests.helpers.architectures import ARCHITECTURES, IMAGE, LAYERS, START, WIDTH, inputs, model
from tests.helpers.models import vectors
from tests.helpers.outcomes import Rows, sections

LAYER, ALPHA, NEW, ANSWER = LAYERS // 2, 2.0, 3, 2
PATHS = (
    "model.language_model.layers",
    "model.text_model.layers",
    "language_model.model.layers",
    "language_model.model.decoder.layers",
    "text_model.model.layers",
    "model.layers",
    "model.language_model.decoder.layers",
    "model.decoder.layers",
    "decoder.bert.encoder.layer",
    "decoder.block",
    "decoder.layer",
)
"""Where the decoder layers are, for the reference."""
V = vectors(LAYERS, WIDTH, scale=0.5)
COLUMNS = ("image", "text", "both", "last", "generate", "batch", "log-likelihood", "relative", "replay", "inspect")
WRITTEN = torch.tensor([[START, 51, IMAGE, 60, 61, 62, 63, 64, 65], [START, 70, IMAGE, 71, 72, 73, 74, 0, 0]])
"""What the decoder of an encoder-decoder runs on; the question and a picture are in the encoder."""
IDS = torch.tensor([[50, 51, IMAGE, IMAGE, IMAGE, 60, 61, 62, 63], [0, 0, 70, IMAGE, IMAGE, IMAGE, 71, 72, 73]])
TOLERANCE = 2e-4

HEAD = """# Which architectures are steered

A tiny random model of each of the {count} architectures of `AutoModelForImageTextToText` in transformers {version} was
made and steered. Its logits were compared with a reference without a cache, which adds alpha·v by a hook of its own.
*exact* means equal up to rounding. Image positions are ids without a picture, except in the architectures that do not
run without one. An encoder-decoder has a picture in its encoder, and is steered in its
[decoder](models.md#encoder-decoders).

The columns *image*, *text*, *both* and *last* are values of `tokens`; *generate*, *batch* and *log-likelihood* are
ways of running. *replay* is what a search does: *hooks* means that it runs the whole model instead, which is slower and
gives the same numbers. Under *inspect* the steered tokens, the norms and the next tokens that `lmms-steer inspect`
shows are compared. Under *relative* the norms are given by hand: an encoder-decoder itself refuses `scale=relative`,
because nothing can be measured on its decoder's start token. *not comparable* means that the unsteered model gives
other numbers in both ways too.
"""
FOOT = """
## How this page is made

This takes some minutes on a CPU:

```
python -m tests.support_matrix --output docs/support.md
```
"""


class Differs(Exception):  # noqa: N818
    """The steered model and the reference disagree."""


def layers_of(model: Any) -> Any:
    for path in PATHS:
        found = model
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None:
            return found
    raise LookupError(f"no decoder layers at {', '.join(PATHS)}")


def ids_for(model: Any) -> Tensor:
    return WRITTEN if model.config.is_encoder_decoder else IDS


def positions(ids: Tensor, tokens: str, end: int, shows: bool = True) -> Tensor:
    """The steered positions among the first `end`; 0 is padding. `shows`: whether images have positions."""
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    for row in range(len(ids)):
        real = [c for c in range(end) if ids[row, c] != 0]
        image = [c for c in real if ids[row, c] == IMAGE] if shows else []
        text = [c for c in real if c not in image]
        for column in {"image": image, "text": text, "both": real, "last": real[-1:]}[tokens]:
            chosen[row, column] = True
    return chosen


def shows(model: Any) -> bool:
    """Whether images are positions of the prompt: in Mllama they enter by cross-attention, Mistral 4 takes none."""
    unlike = ("mllama", "idefics", "mistral4", "instructblipvideo")
    return not model.config.is_encoder_decoder and model.config.model_type not in unlike


@contextmanager
def reference(model: Any, chosen: Tensor, strength: float) -> Iterator[None]:
    v = torch.from_numpy(V[LAYER]).float()

    def add(module: Any, args: Any, output: Any) -> Any:  # noqa: ARG001
        hidden = output[0] if isinstance(output, tuple) else output
        changed = torch.where(chosen.unsqueeze(-1), hidden + strength * v, hidden)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = layers_of(model)[LAYER].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    found: Tensor = model(**inputs(model, ids), use_cache=False).logits
    return found.float()


def spec(tokens: str, **more: Any) -> str:
    keys = {"vector": "v", "layer": LAYER, "alpha": ALPHA, "tokens": tokens, **more}
    return ",".join(f"{key}={value}" for key, value in keys.items())


def compare(found: Tensor, expected: Tensor, ids: Tensor | None = None) -> str:
    apart = (found - expected).abs()
    if ids is not None:
        apart = apart[ids != 0]
    worst = float(apart.max()) / max(1.0, float(expected.abs().max()))
    if not worst < TOLERANCE:
        raise Differs(f"off by {worst:.2g}")
    return "exact"


def forward(model: Any, tokens: str) -> str:
    ids = ids_for(model)
    if tokens == "image" and not shows(model):
        with steer(model, spec(tokens), {"v": V}):
            raise Differs("tokens=image is taken, but images have no positions")
    with reference(model, positions(ids, tokens, ids.shape[1], shows(model)), ALPHA):
        expected = logits(model, ids)
    if not (expected - logits(model, ids))[ids != 0].abs().max() > 10 * TOLERANCE:
        raise Differs("the reference changes nothing")
    with steer(model, spec(tokens), {"v": V}):
        return compare(logits(model, ids), expected, ids)


def generate(model: Any) -> str:
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": 1}
    # Pix2Struct's default is to generate without one
    options["use_cache"] = True
    more = {"return_dict_in_generate": True, "output_logits": True, "suppress_tokens": [0, IMAGE]}
    # without padding, which decoders with learned positions do not take before a text
    prompt = WRITTEN[:, :4] if model.config.is_encoder_decoder else IDS
    end = prompt.shape[1]

    def apart(strength: float, line: str | None) -> Tensor:
        if line is None:
            output = model.generate(**inputs(model, prompt), **options, **more)
        else:
            with steer(model, line, {"v": V}):
                output = model.generate(**inputs(model, prompt), **options, **more)
        whole = torch.cat([prompt, output.sequences[:, end:]], 1)
        with reference(model, positions(whole, "text", end, shows(model)), strength):
            expected = logits(model, whole)[:, end - 1 : -1]
        apart = (torch.stack(output.logits, 1).float() - expected).abs() / max(1.0, float(expected.abs().max()))
        return apart.amax((1, 2))

    steered = apart(ALPHA, spec("text"))
    if (steered < TOLERANCE).all():
        return "exact"
    unsteered = apart(0.0, None)
    if (steered[unsteered < TOLERANCE] > TOLERANCE).any():
        raise Differs(f"off by {float(steered.max()):.2g}")
    padded = f"with a cache the unsteered model is off by {float(unsteered.max()):.1g} too"
    return f"exact: without padding; {padded}" if unsteered[0] < TOLERANCE else f"not comparable: {padded}"


def batch(model: Any) -> str:
    ids = ids_for(model)
    real = (ids[1] != 0).nonzero().flatten()
    alone, last = ids[1:, real], int(real[-1])
    with steer(model, spec("text"), {"v": V}):
        together, single = logits(model, ids)[1:, last], logits(model, alone)[:, -1]
    try:
        return compare(together, single)
    except Differs:
        unsteered = (logits(model, ids)[1:, last] - logits(model, alone)[:, -1]).abs().max()
        if unsteered > TOLERANCE:
            return "not comparable: the unsteered model's batches differ too"
        raise


def loglikelihood(model: Any) -> str:
    ids = ids_for(model)
    ends = [int(row.nonzero()[-1]) + 1 - ANSWER for row in ids]
    chosen = [positions(ids[row : row + 1], "text", end, shows(model)) for row, end in enumerate(ends)]
    with reference(model, torch.cat(chosen), ALPHA):
        expected = logits(model, ids)
    with steer(model, spec("text"), {"v": V}), continuation(ANSWER):
        return compare(logits(model, ids), expected, ids)


def relative(model: Any) -> str:
    norm = 3.0
    remember_norms(model, {layer: dict.fromkeys(("image", "text", "both", "last"), norm) for layer in range(LAYERS)})
    strength = 0.5 * norm / float(torch.from_numpy(V[LAYER]).float().norm())
    ids = ids_for(model)
    with reference(model, positions(ids, "text", ids.shape[1], shows(model)), strength):
        expected = logits(model, ids)
    with steer(model, spec("text", scale="relative", alpha=0.5), {"v": V}):
        return compare(logits(model, ids), expected, ids)


def replay(model: Any) -> str:
    ids = ids_for(model)
    found, why = try_replay(model, inputs(model, ids), ReplayOptions(targets=("text",)))
    if found is None:
        return f"hooks: {why}"
    with reference(model, positions(IDS, "text", IDS.shape[1], shows(model)), ALPHA):
        expected = logits(model, IDS)[:, -1]
    return compare(found.steer(LAYER, ALPHA * torch.from_numpy(V[LAYER]).float(), "text").float(), expected)


def inspect(model: Any) -> str:
    ids = ids_for(model)[:1]
    with steer(model, spec("text"), {"v": V}) as resolved:
        pass
    tokenizer = SimpleNamespace(all_special_ids=[], convert_ids_to_tokens=list, decode=lambda ids: str(ids[0]))
    lm: Any = SimpleNamespace(model=model, resolved=resolved, tokenizer=tokenizer, text_only=False)
    lm.model_inputs = lambda prompts, images: inputs(model, ids)  # noqa: ARG005
    lm.attachment = attach(model, resolved, ())
    try:
        found = inspect_prompt(lm, [], "")
    finally:
        lm.attachment.remove()
    chosen, seen = positions(ids, "text", ids.shape[1], shows(model)), list[Tensor]()

    def keep(module: Any, args: Any, output: Any) -> None:  # noqa: ARG001
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = layers_of(model)[LAYER].register_forward_hook(keep)
    try:
        before = logits(model, ids)[0, -1].softmax(-1)
    finally:
        handle.remove()
    with reference(model, chosen, ALPHA):
        after = logits(model, ids)[0, -1].softmax(-1)
    if found.steered != chosen[0].tolist():
        raise Differs(f"steered {found.steered}")
    compare(torch.tensor(found.norms), seen[0][0].float().norm(dim=-1))
    for listed, expected in ((found.before, before), (found.after, after)):
        compare(torch.tensor([p for _, p in listed]), expected[[int(token) for token, _ in listed]])
        compare(torch.tensor([p for _, p in listed]), expected.topk(len(listed)).values)
    return "exact"


def row(architecture: str, **changes: Any) -> dict[str, str]:
    """Column ▸ `exact`, `refused: why`, `hooks: why`, `not comparable: why`, or `WRONG: how`."""
    try:
        check_config(CONFIG_MAPPING[architecture](), architecture)
    except UserError as error:
        return {"all": f"refused: {str(error).split(': ', 1)[1]}"}
    try:
        made = model(architecture, **changes)
        logits(made, ids_for(made))
    except Exception as error:  # noqa: BLE001  whatever keeps a tiny model from being made is the row's text
        return {"all": f"not made: {type(error).__name__}: {first_line(error)[:90]}"}
    checks: dict[str, Callable[[], str]] = {tokens: partial(forward, made, tokens) for tokens in COLUMNS[:4]}
    rest = (generate, batch, loglikelihood, relative, replay, inspect)
    checks |= {name: partial(check, made) for name, check in zip(COLUMNS[4:], rest, strict=True)}
    return {name: outcome(check) for name, check in checks.items()}


def outcome(check: Callable[[], str]) -> str:
    try:
        return check()
    except UserError as error:
        return f"refused: {error}"
    except Differs as error:
        return f"WRONG: {error}"
    except Exception as error:  # noqa: BLE001  a crash is a result too
        return f"WRONG: {type(error).__name__}: {first_line(error)[:90]}"


def page(rows: Rows, version: str) -> str:
    """The page of the documentation.

    Args:
        rows: the outcomes.
        version: of transformers, with which they were found.
    """
    head = HEAD.format(count=len(rows), version=version)
    return "\n".join([head, *sections(rows, COLUMNS), FOOT])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="the page to write")
    parser.add_argument("architectures", nargs="*", help="by default all")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    rows: Rows = {}
    for name in args.architectures or ARCHITECTURES:
        rows[name] = row(name)
        print(name, rows[name], flush=True)  # noqa: T201
    if args.output:
        args.output.write_text(page(rows, importlib.metadata.version("transformers")), encoding="utf-8")
    sys.exit(any(cell.startswith("WRONG") for cells in rows.values() for cell in cells.values()))


if __name__ == "__main__":
    main()
