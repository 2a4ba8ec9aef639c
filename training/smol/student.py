"""The model in training: Idefics3 with LoRA in its language model and a trained connector."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from lmms_steer.smol.adapter import lora_config
from lmms_steer.smol.architecture import assemble, build_processor
from lmms_steer.tiny_world.scenes import CELLS, COLOURS, SHAPES, Scene, cell_words
from training.smol.lessons import Batch, Packer
from training.vision import pixels

log = logging.getLogger(__name__)
PLACE = 0.4
"""Weight of a cell's place in what the connector is started from, per row or column from the centre."""
EMPTY_WEIGHT = 0.25
"""Weight of an empty cell in the closed form; most cells are empty."""


class Student:
    """The model, its trained parameters, and its forward pass from features of the vision tower.

    Args:
        backbone: the folder of `smollm2-135m`.
        dtype: of the weights and of the forward pass; the connector is float32.
        seed: of the first weights of LoRA.
    """

    def __init__(self, backbone: Path, dtype: torch.dtype, seed: int = 0) -> None:
        model = assemble(backbone)
        self.tower = model.model.vision_model.requires_grad_(False)
        torch.manual_seed(seed)
        self.model: PeftModel = get_peft_model(model.to(dtype), lora_config())
        self.tower.float()
        self.dtype = dtype
        inner: Any = self.model.get_base_model()
        self.text, self.connector = inner.model.text_model, inner.model.connector
        self.head: Tensor = inner.lm_head.weight
        self.processor = build_processor(backbone)
        self.packer = Packer(self.processor.tokenizer)
        self.parameters: list[nn.Parameter] = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in self.parameters:
            # products with weights of another dtype would convert every layer's input: a quarter of a step
            parameter.data = parameter.data.to(torch.float32 if parameter is self.projection else dtype)
        self.model.eval()

    @torch.no_grad()
    def see(self, images: npt.NDArray[np.uint8], batch: int = 250) -> Tensor:
        """Features of the vision tower [n, 16, 80] of images [n, 64, 64, 3]."""
        parts = [images[start : start + batch] for start in range(0, len(images), batch)]
        return torch.cat([self.tower(pixel_values=pixels(part)).last_hidden_state for part in parts])

    def embeddings(self, ids: Tensor, features: Tensor) -> Tensor:
        """Input embeddings of packed rows, with their pictures at the image tokens."""
        embedded: Tensor = self.text.embed_tokens(ids).clone()
        embedded[:, self.packer.image] = self._connect(features).to(embedded.dtype)
        return embedded

    def _connect(self, features: Tensor) -> Tensor:
        connected: Tensor = self.connector(features.float())
        return connected

    def hidden(self, batch: Batch, features: Tensor) -> Tensor:
        """The final hidden states of packed rows [rows, length, width]."""
        output: Tensor = self.text(
            inputs_embeds=self.embeddings(batch.ids, features),
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits in float32."""
        return (hidden @ self.head.T).float()

    @torch.no_grad()
    def solve_connector(self, features: Tensor, scenes: list[Scene]) -> float:
        """Start the connector from the embeddings of the words for each cell, in closed form (least squares).

        A cell is the sum of the words for its colour and shape, or of *empty*, and of its place: a multiple of *right*
        minus *left*, and of *below* minus *above*.

        Returns:
            The share of variance explained.
        """
        target, weight = torch.empty(len(scenes), CELLS, self.head.shape[1]), torch.ones(len(scenes), CELLS)
        words = {word: self._word(word) for word in (*COLOURS, *SHAPES, "empty", "left", "right", "above", "below")}
        across, down = words["right"] - words["left"], words["below"] - words["above"]
        for i, scene in enumerate(scenes):
            for cell, (first, second, column, row) in enumerate(cell_words(scene)):
                what = words[first] + (words[second] if second else 0)
                place = (int(column[1]) - 2.5) * across + (int(row[1]) - 2.5) * down
                target[i, cell] = what + PLACE * place
                weight[i, cell] = 1.0 if second else EMPTY_WEIGHT
        inputs, outputs, root = features.flatten(0, 1), target.flatten(0, 1), weight.flatten().sqrt()[:, None]
        solution = torch.linalg.lstsq(inputs * root, outputs * root).solution
        self.projection.copy_(solution.T)
        error = (((inputs @ solution - outputs) * root) ** 2).sum()
        return float(1 - error / (((outputs - outputs.mean(0)) * root) ** 2).sum())

    @property
    def projection(self) -> nn.Parameter:
        """The connector's trained weights [width, 80]."""
        weights: list[nn.Parameter] = [p for p in self.connector.parameters() if p.requires_grad]
        return weights[0]

    def _word(self, word: str) -> Tensor:
        ids = self.processor.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        embedded: Tensor = self.text.embed_tokens.weight[ids].float().mean(0)
        return embedded
