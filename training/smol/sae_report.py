"""How good the SAEs of smollm2-135m are, and which of their features the method `sae` takes for a concept.

    python -m training.smol.sae_report FOLDER --concepts spatial,colour-red

FOLDER is what `python -m training.smol.sae --out FOLDER` wrote. The words of a feature are those of the model's own
text at which it is strongest; `--question` prints what a judge would be asked about a feature.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmms_steer import concepts
from lmms_steer.concepts import Concept
from lmms_steer.extraction.activations import Activations
from lmms_steer.extraction.extract import Backbone
from lmms_steer.extraction.job import ExtractionJob, ExtractionSettings
from lmms_steer.extraction.methods.sae import Candidate, candidate_features
from lmms_steer.extraction.sae_contexts import Contexts, neutral_concept
from lmms_steer.extraction.sae_judge import JudgeQuestion
from lmms_steer.extraction.sae_source import Sae, SaeSource
from lmms_steer.smol.backbone import BACKBONE
from training.smol import sae as training

STRONGEST = 200
"""Tokens of the text from which a feature's words are taken."""
SHOWN_WORDS = 5
ROWS = 16
"""Sequences in a forward pass."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Of an SAE, on text that it was not trained on.

    Attributes:
        explained: share of the variance of the layer's output that the reconstruction explains.
        active: features per token.
        dead: share of the features that fire on no token of the training text.
        loss: the language model's cross-entropy in nats a token.
        loss_sae: with the reconstruction in place of the layer's output.
        loss_zero: with zero in its place.
    """

    explained: float
    active: float
    dead: float
    loss: float
    loss_sae: float
    loss_zero: float

    @property
    def recovered(self) -> float:
        """The share of the loss that zero adds and the reconstruction does not."""
        return (self.loss_zero - self.loss_sae) / (self.loss_zero - self.loss)


def main() -> None:
    """Parse the command line, and print the quality and the features as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default=BACKBONE)
    parser.add_argument("--concepts", default="spatial,counting,entity,attribute,colour-red,colour-blue")
    parser.add_argument("--question", metavar="CONCEPT:LAYER:FEATURE", help="what a judge would be asked about it")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = Backbone(args.backbone, dtype="bfloat16")
    sys.stdout.writelines(f"{line}\n" for line in report_lines(backbone, args))


def report_lines(backbone: Backbone, args: argparse.Namespace) -> Iterator[str]:
    """The report as Markdown, or the one question."""
    chosen = concepts_of(args.question.split(":")[0] if args.question else args.concepts)
    jobs = [job_of(backbone, concept, args.folder / "sae") for concept in chosen]
    read = {job.concept.name: job.read(job.concept) for job in jobs}
    source = SaeSource(jobs[0])
    if args.question:
        layer, feature = map(int, args.question.split(":")[1:])
        yield judge_question(jobs[0], read[jobs[0].concept.name], source.load(layer), feature)
        return
    parts = sorted((args.folder / "text").glob("*.safetensors"))
    held_out = training.write_text(args.folder / "held_out", len(training.OPENERS), seed=1, sequences=ROWS)
    ids = torch.cat([training.read_tensor(part, "ids") for part in held_out])
    rows, features = [], []
    for layer in source.layers:
        reader = source.load(layer)
        listed = {name: candidates(activations, reader) for name, activations in read.items()}
        wanted = sorted({candidate.feature for found in listed.values() for candidate in found})
        alive, words = read_text(reader, parts, wanted, backbone.tokenizer)
        outputs = torch.cat([training.read_tensor(part, f"layer_{layer}") for part in held_out])
        rows.append((layer, quality(backbone.model, reader, ids, outputs, alive)))
        features += [(name, layer, found, words) for name, found in listed.items()]
    yield "| layer | explained variance | active features | dead features | loss | with SAE | with zero | recovered |"
    yield "|---|---|---|---|---|---|---|---|"
    for layer, q in rows:
        losses = f"{q.loss:.3f} | {q.loss_sae:.3f} | {q.loss_zero:.3f} | {q.recovered:.1%}"
        yield f"| {layer} | {q.explained:.1%} | {q.active:.1f} | {q.dead:.1%} | {losses} |"
    for name, layer, found, words in sorted(features, key=lambda row: (list(read).index(row[0]), row[1])):
        yield f"\n{name}, layer {layer}, {len(found)} candidates (anchors that list the feature, words of the text):"
        yield from (f"- {feature_line(candidate, words)}" for candidate in found)


def concepts_of(names: str) -> list[Concept]:
    """The concepts of a comma-separated list."""
    return [concepts.load(name) for name in names.split(",")]


def job_of(backbone: Backbone, concept: Concept, folder: Path) -> ExtractionJob:
    """The job that `lmms-steer extract --method sae --sae FOLDER` gives the method."""
    width, count = backbone.source["hidden_size"], backbone.source["n_layers"]
    return ExtractionJob(
        backbone.name, backbone.name, count, width, concept, backbone.read, ExtractionSettings(sae=str(folder))
    )


def candidates(activations: Activations, reader: Sae) -> list[Candidate]:
    """The features that the method `sae` has checked."""
    return candidate_features(reader.encode(activations.anchors[:, reader.layer]))


def feature_line(candidate: Candidate, words: dict[int, list[str]]) -> str:
    """`812 (14 anchors): "left", "right"`."""
    shown = ", ".join(f"“{word}”" for word in words.get(candidate.feature, [])) or "fires nowhere in the text"
    return f"{candidate.feature} ({candidate.count}): {shown}"


@torch.inference_mode()
def read_text(
    reader: Sae, parts: Sequence[Path], wanted: Sequence[int], tokenizer: Any
) -> tuple[Tensor, dict[int, list[str]]]:
    """Which features fire on the text at all, as bools [features], and the commonest words of the wanted ones.

    A feature's words are the tokens among the `STRONGEST` at which it fires, commonest first.
    """
    alive = torch.zeros(reader.module.cfg.d_sae, dtype=torch.bool)
    best = torch.zeros(0, len(wanted)), torch.zeros(0, len(wanted), dtype=torch.long)
    for part in parts:
        outputs = training.read_tensor(part, f"layer_{reader.layer}")
        chosen = training.is_ordinary(outputs)
        ids = training.read_tensor(part, "ids")[:, :-1][chosen]
        for rows, tokens in zip(outputs[chosen].split(4096), ids.split(4096), strict=True):
            fired = reader.module.encode(rows.float())
            alive |= (fired > 0).any(0)
            strengths = torch.cat([best[0], fired[:, wanted]])
            owners = torch.cat([best[1], tokens[:, None].expand(-1, len(wanted))])
            top = strengths.topk(min(STRONGEST, len(strengths)), dim=0)
            best = top.values, owners.gather(0, top.indices)
    words = {}
    for column, feature in enumerate(wanted):
        fires = best[1][best[0][:, column] > 0, column].tolist()
        counted = Counter(tokenizer.decode([token]).strip().lower() for token in fires)
        words[feature] = [word for word, _ in counted.most_common(SHOWN_WORDS)]
    return alive, words


@torch.inference_mode()
def quality(model: Any, reader: Sae, ids: Tensor, outputs: Tensor, alive: Tensor) -> Quality:
    """Measure an SAE on held-out text; the outputs that its training leaves out are left as they are.

    Args:
        model: the language model.
        reader: the SAE.
        ids: [sequences, length].
        outputs: of the layer there [sequences, length - 1, width].
        alive: the features that fire on the training text [features].
    """
    chosen = training.is_ordinary(outputs)
    rows = outputs[chosen].float()
    fired = reader.module.encode(rows)
    error = (rows - reader.module.decode(fired)).square().sum()
    explained = 1 - error / (rows - rows.mean(0)).square().sum()
    module = model.model.layers[reader.layer]

    def loss(change: Any) -> float:
        """The cross-entropy with the chosen outputs changed; the last token of a sequence predicts nothing."""
        losses = []
        for part, places in zip(ids.split(ROWS), chosen.split(ROWS), strict=True):

            def replace(_module: Any, _args: Any, output: Tensor, places: Tensor = places) -> Tensor:
                changed = output.clone()
                changed[:, :-1][places] = change(output[:, :-1][places].float()).to(output.dtype)
                return changed

            handle = module.register_forward_hook(replace)
            try:
                logits = model(input_ids=part, use_cache=False).logits[:, 1:-1].float()
            finally:
                handle.remove()
            losses.append(F.cross_entropy(logits.flatten(0, 1), part[:, 2:].flatten(), reduction="none"))
        return float(torch.cat(losses).mean())

    return Quality(
        explained=float(explained),
        active=float((fired > 0).sum(1).float().mean()),
        dead=float((~alive).float().mean()),
        loss=loss(lambda states: states),
        loss_sae=loss(lambda states: reader.module.decode(reader.module.encode(states))),
        loss_zero=loss(torch.zeros_like),
    )


def judge_question(job: ExtractionJob, activations: Activations, reader: Sae, feature: int) -> str:
    """What a judge is asked about one feature, as the method `sae` asks it."""
    contexts = Contexts(activations, job.read(neutral_concept(job)))
    shown = contexts.strongest(reader.encode(contexts.rows(reader.layer))[:, feature])
    return JudgeQuestion(job.concept, f"layer {reader.layer}, feature {feature}", shown, None).text()


if __name__ == "__main__":
    main()
