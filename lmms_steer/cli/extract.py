"""`lmms-steer extract` and `lmms-steer concepts`: from sentences to vectors."""

from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer(rich_markup_mode=None)
concepts_app = typer.Typer(help="The sentence-anchor pairs that ship.", no_args_is_help=True, rich_markup_mode=None)
commands.add_typer(concepts_app, name="concepts")


@commands.command()
def extract(
    backbone: Annotated[
        str, typer.Option(help="Text model (a Hub id, a folder, tiny-gemma2), or an MLLM for its language model.")
    ],
    concept: Annotated[str, typer.Option(help="A concept, several with commas, a YAML, JSONL or CSV file, or all.")],
    method: Annotated[
        str,
        typer.Option(
            help="How directions are computed, several with commas: mean_shift, linear_probe, sae, sae_denoised, pca;"
            " controls: random, shuffled, wrong_concept, of the mean shift, or of METHOD as METHOD-shuffled."
        ),
    ] = "mean_shift",
    store: Annotated[Path | None, typer.Option(help="Store to file them in; yours where unsaid.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where the store has a vector of that name from other sentences.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of random choices.")] = 0,
    sae: Annotated[
        str | None,
        typer.Option(help="sae-lens release, RELEASE:ID with {layer} in it, or folder; the table's if unsaid."),
    ] = None,
    judge: Annotated[
        str, typer.Option(help="Who checks SAE features: llm (OPENAI_API_KEY, OPENAI_BASE_URL), ask (you) or none.")
    ] = "llm",
    neutral: Annotated[
        Path | None, typer.Option(help="Text, a sentence a line, for the contexts that a judge sees.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="JSONL of image, prompt, contrast: read an MLLM on pictures, not on sentences.")
    ] = None,
    paper_exact: Annotated[
        bool, typer.Option("--paper-exact", help="The released code's arithmetic for sae, with its slips.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences a forward call.")] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0, …")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, …; float32 on a processor.")] = None,
) -> None:
    """Make a concept's vectors from a text backbone, at every layer in one pass."""
    from lmms_steer.extraction.command import extract_to_store as run
    from lmms_steer.extraction.methods import ExtractionSettings

    settings = ExtractionSettings(seed=seed, paper_exact=paper_exact, sae=sae, judge=judge, neutral=neutral)
    for line in run(
        backbone, concept.split(","), method.split(","), store, batch_size, device, dtype, settings, questions, replace
    ):
        typer.echo(line)


@concepts_app.command("list")
def list_concepts() -> None:
    """The concepts that ship."""
    from lmms_steer import concepts

    for concept in concepts.shipped():
        typer.echo(f"{concept.name:14} {len(concept.pairs):3} pairs  {concept.about}")


@concepts_app.command("show")
def show_concept(
    name: Annotated[str, typer.Argument(help="A concept that ships, or a YAML, JSONL or CSV file.")],
    backbone: Annotated[str | None, typer.Option(help="Part the anchors into this model's tokens.")] = None,
) -> None:
    """The sentences, with the anchors marked as the backbone's tokenizer splits them."""
    from lmms_steer.inspection.concept import show_concept

    for line in show_concept(name, backbone):
        typer.echo(line)
