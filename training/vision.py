"""Stage 2: the vision tower, a small SigLIP trained to classify each patch's colour, shape, row and column.

Without the labels for row and column the features would not contain the position. The classification heads are
discarded after training.
"""

import logging
import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import SiglipVisionConfig, SiglipVisionModel

from lmms_steer.tiny_world.scenes import (
    CELLS,
    COLOURS,
    GRID,
    PATCH,
    SHAPES,
    SIZE,
    STYLES,
    Scene,
    random_seed,
    render,
    sample_scene,
)

log = logging.getLogger(__name__)
WIDTH, LAYERS = 80, 3
STEPS, BATCH, BANK = 1250, 64, 12000
RATE = 2e-3


def image_bank(
    seed: int, count: int, fewest: int = 1, style: str = "plain", wanted: Callable[[Scene], bool] = lambda _: True
) -> tuple[list[Scene], npt.NDArray[np.uint8]]:
    """Random scenes, and their images: uint8 [count, 64, 64, 3].

    Args:
        seed: for every random choice.
        count: how many.
        fewest: the smallest number of objects.
        style: one of `STYLES`.
        wanted: whether a scene may be among them.
    """
    rng = random.Random(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng, fewest)
        if wanted(scene):
            scenes.append(scene)
    return scenes, np.stack([render(scene, STYLES[style], random_seed(rng)) for scene in scenes])


def pixels(images: npt.NDArray[np.uint8]) -> Tensor:
    """Images as the image processor returns them: float [n, 3, 64, 64] from -1 to 1."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(seed: int, steps: int = STEPS, bank: int = BANK) -> SiglipVisionModel:
    """Train the vision tower on `bank` images."""
    torch.manual_seed(seed)
    scenes, images = image_bank(seed + 12, bank, fewest=2)
    colour, shape = torch.zeros(bank, CELLS, dtype=torch.long), torch.zeros(bank, CELLS, dtype=torch.long)
    for i, scene in enumerate(scenes):
        for thing in scene:
            colour[i, thing.cell] = 1 + list(COLOURS).index(thing.colour)
            shape[i, thing.cell] = 1 + SHAPES.index(thing.shape)
    cells = torch.arange(CELLS).repeat(BATCH)
    tower = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            image_size=SIZE,
            patch_size=PATCH,
            vision_use_head=False,
            attn_implementation="sdpa",
        )
    )
    heads = nn.ModuleList(nn.Linear(WIDTH, n) for n in (1 + len(COLOURS), 1 + len(SHAPES), GRID, GRID))
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.05)
    for step in tqdm(range(steps), desc="vision", disable=None):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 100) * max(0.02, min(1, 2 * (1 - done)))
        rows = torch.randint(0, bank, (BATCH,))
        features = tower(pixel_values=pixels(images[rows.numpy()])).last_hidden_state.flatten(0, 1)
        colours, shapes = colour[rows].flatten(), shape[rows].flatten()
        weight = torch.where(colours > 0, 1.0, 0.25)  # most cells are empty
        loss = sum(
            scale * (F.cross_entropy(head(features), label, reduction="none") * w).mean()
            for head, label, w, scale in zip(
                heads,
                (colours, shapes, cells % GRID, cells // GRID),
                (weight, weight, torch.ones(()), torch.ones(())),
                (1.0, 1.0, 0.3, 0.3),
                strict=True,
            )
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0 or step + 1 == steps:
            log.info("vision step %d loss %.3f", step + 1, loss.item())  # type: ignore[union-attr]
    return tower
