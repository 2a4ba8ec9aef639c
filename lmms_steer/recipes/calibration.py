"""Measure how fast this machine's device runs a decoder layer, to estimate the cost of a plan on it."""

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from lmms_steer.errors import UserError
from lmms_steer.recipes.cost import Speed
from lmms_steer.recipes.shapes import Shape, find_shape

if TYPE_CHECKING:
    import torch

REPEATS = 5
"""Batches that are timed, after one that is not."""
TOKENS = {"cuda": 16384, "mps": 4096}
"""Tokens of a batch, by type of device."""
TOKENS_ELSEWHERE = 256
PROMPT_TOKENS = 256
"""Tokens of one prompt of a batch."""
COPIED = 2**28
"""Bytes of the copy that is timed."""


def measured_speed(models: Iterable[str]) -> Speed:
    """The speed of this machine's device on a layer of the largest of some models: in bfloat16, on a CPU in float32.

    Args:
        models: their names or folders.

    Raises:
        UserError: if the shape of none of them is known, or the layer does not fit on the device.
    """
    import torch

    shapes = [shape for model in dict.fromkeys(models) if (shape := find_shape(model)) is not None]
    if not shapes:
        raise UserError("--calibrate: no model of the recipe is on this disk or in the table of shapes: use --gpu")
    shape = max(shapes, key=lambda one: one.layer_weights)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = accelerator or torch.device("cpu")
    try:
        seconds = _layer_seconds(shape, device)
        bandwidth = _bandwidth(device)
    except torch.OutOfMemoryError as error:
        raise UserError(f"--calibrate: one layer of width {shape.width} does not fit on {device.type}") from error
    done = TOKENS.get(device.type, TOKENS_ELSEWHERE) // PROMPT_TOKENS * shape.layer_flops(PROMPT_TOKENS)
    return Speed(
        f"this machine's {_name(device)}",
        (done / max(seconds), done / min(seconds)),
        (bandwidth, bandwidth),
        _memory(device),
        f"by {REPEATS} timed batches of a layer of width {shape.width}"
        f" ({done / max(seconds) / 1e12:.2g}-{done / min(seconds) / 1e12:.2g} TFLOP/s)",
        unit="hours" if device.type == "cpu" else "GPU-hours",
    )


def _layer_seconds(shape: Shape, device: "torch.device") -> list[float]:
    """Seconds of each timed batch of one decoder layer with random weights."""
    import torch
    import torch.nn.functional as F

    heads = [shape.heads, shape.kv_heads, shape.kv_heads]
    sizes = {
        "qkv": (sum(heads) * shape.head, shape.width),
        "output": (shape.width, shape.heads * shape.head),
        "gate_up": (2 * shape.mlp, shape.width),
        "down": (shape.width, shape.mlp),
    }
    # as `dtype=auto` loads it; on most CPUs bfloat16 is far slower
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    weights = {name: torch.full(size, 0.01, device=device, dtype=dtype) for name, size in sizes.items()}
    rows = TOKENS.get(device.type, TOKENS_ELSEWHERE) // PROMPT_TOKENS
    hidden = torch.ones((rows, PROMPT_TOKENS, shape.width), device=device, dtype=dtype)

    def run() -> None:
        projected = F.linear(hidden, weights["qkv"]).unflatten(-1, (-1, shape.head)).transpose(1, 2)
        query, key, value = projected.split(heads, 1)
        seen = F.scaled_dot_product_attention(query, key, value, enable_gqa=True).transpose(1, 2).flatten(2)
        middle = F.rms_norm(hidden + F.linear(seen, weights["output"]), (shape.width,))
        gate, up = F.linear(middle, weights["gate_up"]).chunk(2, -1)
        F.linear(F.silu(gate) * up, weights["down"])

    return _timed(run, device)


def _bandwidth(device: "torch.device") -> float:
    """Bytes a second that are read and written by a copy."""
    import torch

    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED / min(_timed(lambda: target.copy_(source), device))


def _timed(run: Callable[[], object], device: "torch.device") -> list[float]:
    import torch

    seconds = []
    with torch.inference_mode():
        for _ in range(REPEATS + 1):
            started = time.perf_counter()
            run()
            if device.type != "cpu":
                torch.accelerator.synchronize()
            seconds.append(time.perf_counter() - started)
    return seconds[1:]


def _name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name() if device.type == "cuda" else {"cpu": "CPU"}.get(device.type, device.type)


def _memory(device: "torch.device") -> float:
    import psutil
    import torch

    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(psutil.virtual_memory().total)
