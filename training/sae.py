"""Train the SAEs that ship, for two layers of tiny-gemma2, with sae-lens's trainer.

python -m training.sae --out FOLDER
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmms_steer.steering.recording import record_layers
from lmms_steer.tiny_world.checkpoints import TINY_SAE, weights_dir
from lmms_steer.tiny_world.language import ordinary_sentence, world_sentence

LAYERS = (1, 3)
FEATURES, ACTIVE_FEATURES = 512, 6
SAMPLES, BATCH = 2_000_000, 1024
SENTENCES = 128


def main() -> None:
    """Parse the command line, and train and save an SAE per layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {TINY_SAE}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="training tokens per SAE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for layer in LAYERS:
        train(layer, args.seed, args.samples).save_inference_model(args.out / TINY_SAE / f"layer_{layer}")


def train(layer: int, seed: int, samples: int) -> Any:
    """Train an SAE on one layer's output of tiny-gemma2 on text of its world and other sentences."""
    model = AutoModelForCausalLM.from_pretrained(weights_dir("tiny-gemma2"), dtype=torch.float32).eval()
    size = SaeSize("tiny-gemma2", model.config.hidden_size, FEATURES, ACTIVE_FEATURES)
    return fit(size, layer, residuals(model, layer, seed), seed, samples)


@dataclass(frozen=True, slots=True)
class SaeSize:
    """Of which model an SAE is, and its size.

    Attributes:
        model: the model's name.
        width: of its residual stream.
        features: of the SAE.
        active: features per token in the training.
    """

    model: str
    width: int
    features: int
    active: int


def fit(
    size: SaeSize,
    layer: int,
    batches: Iterator[Tensor],
    seed: int,
    samples: int,
    batch: int = BATCH,
    dead_after: int = 1000,
) -> Any:
    """Train a batch-top-k SAE (arXiv 2412.06410) with sae-lens's trainer.

    `save_inference_model` writes it as a JumpReLU SAE, in float16.

    Args:
        size: of the SAE.
        layer: whose output it reads.
        batches: [batch, width], without end.
        seed: of its first weights.
        samples: tokens that it is trained on.
        batch: tokens of a step.
        dead_after: steps without firing after which the auxiliary loss revives a feature.
    """
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    config = BatchTopKTrainingSAEConfig(
        d_in=size.width,
        d_sae=size.features,
        k=size.active,
        normalize_activations="expected_average_only_in",
        metadata=SAEMetadata(model_name=size.model, hook_name=f"blocks.{layer}.hook_resid_post"),
    )
    trainer_config = SAETrainerConfig(
        total_training_samples=samples,
        train_batch_size_samples=batch,
        lr=1e-3,
        lr_end=1e-4,
        lr_decay_steps=samples // batch // 5,
        n_batches_for_norm_estimate=20,
        dead_feature_window=dead_after,
        logger=LoggingConfig(log_to_wandb=False),
    )
    sae = SAETrainer(trainer_config, BatchTopKTrainingSAE(config), batches).fit()
    sae.fold_W_dec_norm()
    sae.to(torch.float16)
    sae.cfg.dtype = "float16"
    return sae


@torch.no_grad()
def residuals(model: torch.nn.Module, layer: int, seed: int) -> Iterator[Tensor]:
    """Endless batches [BATCH, width] of the layer's output at all tokens except BOS."""
    tokenizer: Any = AutoTokenizer.from_pretrained(weights_dir("tiny-gemma2"))
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    pool = torch.empty(0)
    while True:
        while len(pool) < 16 * BATCH:
            texts = [ordinary_sentence(rng) if rng.random() < 0.8 else world_sentence(rng) for _ in range(SENTENCES)]
            batch = tokenizer(
                texts, padding=True, padding_side="right", return_tensors="pt", return_special_tokens_mask=True
            )
            with record_layers(model) as outputs:
                model.get_decoder()(batch["input_ids"], attention_mask=batch["attention_mask"])  # type: ignore[operator]
            rows = outputs[layer][(batch["special_tokens_mask"] == 0) & (batch["attention_mask"] == 1)]
            pool = rows if not len(pool) else torch.cat([pool, rows])
        pool = pool[torch.randperm(len(pool), generator=generator)]
        yield pool[:BATCH]
        pool = pool[BATCH:]


if __name__ == "__main__":
    main()
