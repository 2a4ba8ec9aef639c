"""`lmms-steer extract` and `lmms-steer concepts`: make vectors from sentences, and show the sentences."""

from pathlib import Path
from typing import Annotated

import typer

from lmms_steer.cli.command_list import CommandList
from lmms_steer.cli.output import echo, echo_lines
from lmms_steer.cli.registry_help import RegistryHelpCommand

commands = typer.Typer(rich_markup_mode=None)
concepts_app = typer.Typer(
    cls=CommandList,
    help="The concepts that ship: sentences with a marked word.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
commands.add_typer(concepts_app, name="concepts")


@commands.command(cls=RegistryHelpCommand)
def extract(
    backbone: Annotated[
        str,
        typer.Option(
            help="Text model (a Hub id, a folder, tiny-gemma2), or a multimodal model, for its language model."
        ),
    ],
    concept: Annotated[
        str, typer.Option(help="A concept, several separated by commas, a YAML, JSONL or CSV file, or all.")
    ],
    method: Annotated[
        str,
        typer.Option(
            help="Extraction methods, separated by commas. {methods}. Controls: {controls}; alone they belong to the"
            " mean shift, METHOD-CONTROL is the control of another method."
        ),
    ] = "mean_shift",
    store: Annotated[
        Path | None, typer.Option(help="Folder to write to. Default: your store, ~/.cache/lmms-steer/vectors.")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace vectors of the same names made from other sentences or weights."),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            help="The model's name in the store, if another model has it already. Default: the last part of --backbone."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    layers: Annotated[
        str | None,
        typer.Option(help="Layers of the vector, as in 5-20 or 3,7. Default: all. Other layers' SAEs are not read."),
    ] = None,
    sae: Annotated[
        str | None,
        typer.Option(help="A sae-lens release, RELEASE:ID with {layer} in it, or a folder. Default: known SAEs."),
    ] = None,
    judge: Annotated[
        str,
        typer.Option(
            help="Who checks SAE features: llm (OPENAI_API_KEY, OPENAI_BASE_URL), ask (you) or none (keep all)."
        ),
    ] = "llm",
    neutral: Annotated[
        Path | None, typer.Option(help="Text file, one sentence per line, for the contexts that the judge sees.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="JSONL file, one image, prompt and contrast per line: read a multimodal model at these questions."
        ),
    ] = None,
    image_contrast: Annotated[
        str | None,
        typer.Option(
            "--image_contrast",
            "--image-contrast",
            help="Contrast the images of the questions instead of the prompts: {image_contrasts}. The control with"
            " other questions' images is made too.",
        ),
    ] = None,
    at: Annotated[
        str,
        typer.Option(
            help="Tokens of the questions that are read: last, or the mean over image, text or both; or patches: each"
            " patch in the layers of the vision tower, for site=vision."
        ),
    ] = "last",
    orthogonal_to: Annotated[
        str | None,
        typer.Option(
            "--orthogonal_to", "--orthogonal-to", help="Remove the component along this vector at each layer."
        ),
    ] = None,
    paper_exact: Annotated[
        bool,
        typer.Option(
            "--paper-exact", help="Select SAE features as the paper's released code does, including its errors."
        ),
    ] = False,
    batch_size: Annotated[
        int, typer.Option("--batch_size", "--batch-size", min=1, help="Sentences per forward pass.")
    ] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0, …")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16. Default: float32 on a CPU.")] = None,
) -> None:
    """Extract a concept's vectors from a text model, for all layers in one pass."""
    from lmms_steer.extraction.command import extract_to_store as run
    from lmms_steer.extraction.methods import ExtractionSettings
    from lmms_steer.search.options import parse_layers

    wanted = parse_layers(layers) if layers is not None else None
    settings = ExtractionSettings(
        seed=seed, layers=wanted, paper_exact=paper_exact, sae=sae, judge=judge, neutral=neutral,
        image_contrast=image_contrast, at=at, orthogonal_to=orthogonal_to,
    )  # fmt: skip
    for line in run(
        backbone, concept.split(","), method.split(","), store, batch_size, device, dtype, settings, questions, replace,
        name,
    ):  # fmt: skip
        echo(line)


@concepts_app.command("list")
def list_concepts() -> None:
    """List the concepts that ship."""
    from lmms_steer import concepts

    for concept in concepts.shipped():
        echo(f"{concept.name:14} {len(concept.pairs):3} sentences  {concept.about}")


@concepts_app.command("show")
def show_concept(
    name: Annotated[str, typer.Argument(help="A concept that ships, or a YAML, JSONL or CSV file.")],
    backbone: Annotated[str | None, typer.Option(help="Show the anchors as this model's tokens.")] = None,
) -> None:
    """Show a concept's sentences with the anchors marked."""
    from lmms_steer.inspection.concept import show_concept

    echo_lines(show_concept(name, backbone))
