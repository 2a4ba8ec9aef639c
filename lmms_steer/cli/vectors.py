"""`lmms-steer vectors`: what is in the stores, and its ways in and out."""

from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer(help="The vectors that a spec can name.", no_args_is_help=True, rich_markup_mode=None)
Vector = Annotated[str, typer.Argument(help="BACKBONE/CONCEPT/METHOD of a store, or a file.")]


@commands.command("list")
def list_vectors(
    name: Annotated[
        str | None, typer.Argument(help="A part of names, for a row a vector: tiny-gemma2/spatial, spatial, sae.")
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="Names alone, one a line, for scripts.")] = False,
) -> None:
    """Every vector that a name reaches, a row a concept; yours hide shipped ones of the same name."""
    from lmms_steer.inspection.listing import listing_lines

    for line in listing_lines(name, names):
        typer.echo(line)


@commands.command("show")
def show_vector(
    name: Vector,
    picture: Annotated[Path | None, typer.Option(help="Also draw it into this file (.png, .svg, .pdf).")] = None,
    words: Annotated[bool, typer.Option(help="Words by the logit lens: its model is loaded for them.")] = True,
) -> None:
    """Where a vector comes from; norm, probe accuracy, cosines with others and words, layer by layer."""
    from lmms_steer.inspection.vectors import describe_vector, description_lines
    from lmms_steer.plots.style import check_figure_suffix
    from lmms_steer.vectors.store import find

    if picture is not None:
        check_figure_suffix(picture)
    shown = describe_vector(find(name, None).path, words)
    for line in description_lines(shown):
        typer.echo(line)
    if picture is not None:
        from lmms_steer.inspection.vector_figure import draw_vector

        typer.echo(f"\n{draw_vector(shown, picture)}")


@commands.command("compare")
def compare_vectors(first: Vector, second: Vector) -> None:
    """The cosine of two vectors at each layer: of two methods, two models, two checkpoints."""
    from lmms_steer.inspection.vectors import comparison_lines
    from lmms_steer.vectors.steering_vectors import SteeringVectors
    from lmms_steer.vectors.store import find

    for line in comparison_lines(*(SteeringVectors.load(find(name, None).path) for name in (first, second))):
        typer.echo(line)


@commands.command("export")
def export_vector(
    name: Vector,
    to: Annotated[str, typer.Option(help="lm-eval, gguf (llama.cpp, repeng, EasySteer) or pt (a state dict).")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    layer: Annotated[int | None, typer.Option(min=0, help="This layer alone.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Strength to write it with; 1 where unsaid.")] = None,
) -> None:
    """Write a vector as another tool's file."""
    from lmms_steer.vectors.formats import export_vector
    from lmms_steer.vectors.steering_vectors import SteeringVectors
    from lmms_steer.vectors.store import find

    for line in export_vector(SteeringVectors.load(find(name, None).path), to, out, layer, alpha):
        typer.echo(line)


@commands.command("import")
def import_vector(
    file: Annotated[Path, typer.Argument(help="The .gguf or .pt.")],
    backbone: Annotated[str, typer.Option(help="The model that it was made from.")],
    concept: Annotated[str, typer.Option(help="What it is about.")],
    method: Annotated[str, typer.Option(help="How it was made.")] = "imported",
    layer: Annotated[int | None, typer.Option(min=0, help="Where a single tensor belongs.")] = None,
    store: Annotated[Path | None, typer.Option(help="Store to file it in; yours where unsaid.")] = None,
) -> None:
    """Read another tool's file (.gguf, .pt) into a store; a .pt is read as tensors only and runs no code."""
    from lmms_steer._util.formatting import format_shape
    from lmms_steer.vectors.backbones import short_name
    from lmms_steer.vectors.formats import import_vector
    from lmms_steer.vectors.store import save

    made = {"model": short_name(backbone), "model_id": backbone, "concept": concept, "method": method}
    vectors = import_vector(file, layer, made)
    typer.echo(f"{vectors.name}: {format_shape(vectors.layers, vectors.hidden_size)} -> {save(vectors, store)}")


@commands.command("push")
def push_vectors(
    names: Annotated[list[str], typer.Argument(help="Vectors of a store.")],
    repo: Annotated[str, typer.Option(help="Repository on the Hub: user/name.")],
    private: Annotated[bool, typer.Option("--private", help="Where it does not exist yet.")] = False,
) -> None:
    """Upload vectors to the Hugging Face Hub, with a card written from their provenance."""
    from lmms_steer.vectors.hub import push_vectors

    for line in push_vectors(names, repo, private):
        typer.echo(line)


@commands.command("pull")
def pull_vectors(
    repo: Annotated[str, typer.Argument(help="Repository on the Hub: user/name.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    store: Annotated[Path | None, typer.Option(help="Store to file them in; yours where unsaid.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where the store has a file of that name with other content.")
    ] = False,
) -> None:
    """Download every vector of a repository on the Hugging Face Hub."""
    from lmms_steer.vectors.hub import pull_vectors

    for line in pull_vectors(repo, revision, store, replace):
        typer.echo(line)
