"""`lmms-steer vectors`: list, show, compare, import, export, upload and download vectors."""

from pathlib import Path
from typing import Annotated

import typer

from lmms_steer.cli.command_list import CommandList
from lmms_steer.cli.output import echo, echo_lines

commands = typer.Typer(
    cls=CommandList,
    help="The vectors that a spec can name: yours and those that ship.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Vector = Annotated[str, typer.Argument(help="BACKBONE/CONCEPT/METHOD in a store, or a file.")]


@commands.command("list")
def list_vectors(
    name: Annotated[
        str | None,
        typer.Argument(
            help="List only vectors with this part in their names, one per row: tiny-gemma2/spatial, spatial, sae."
        ),
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="Print only names, one per line, for scripts.")] = False,
) -> None:
    """List all vectors, one row per concept. A vector of yours hides a shipped one of the same name."""
    from lmms_steer.inspection.listing import listing_lines

    echo_lines(listing_lines(name, names))


@commands.command("show")
def show_vector(
    name: Vector,
    plot: Annotated[
        Path | None, typer.Option("--plot", "--picture", help="Also draw a figure into this file (.png, .svg, .pdf).")
    ] = None,
    words: Annotated[bool, typer.Option(help="Show the words it is like and promotes. Loads the model.")] = True,
    backbone: Annotated[
        str | None, typer.Option(help="Model to read the words in. Default: the one that the vector was made from.")
    ] = None,
) -> None:
    """Show a vector's provenance and, per layer, its norm, probe accuracy, cosines with others and words."""
    from lmms_steer.inspection.vectors import describe_vector, description_lines
    from lmms_steer.plots.style import check_figure_suffix
    from lmms_steer.vectors.store import find

    if plot is not None:
        check_figure_suffix(plot)
    description = describe_vector(find(name, None).path, words, backbone)
    echo_lines(description_lines(description))
    if plot is not None:
        from lmms_steer.inspection.vector_figure import draw_vector

        echo(f"\n{draw_vector(description, plot)}")


@commands.command("compare")
def compare_vectors(first: Vector, second: Vector) -> None:
    """Print the cosine of two vectors at each layer, for example of two methods or two checkpoints."""
    from lmms_steer.inspection.vectors import comparison_lines
    from lmms_steer.vectors.steering_vectors import SteeringVectors
    from lmms_steer.vectors.store import find

    echo_lines(comparison_lines(*(SteeringVectors.load(find(name, None).path) for name in (first, second))))


@commands.command("export")
def export_vector(
    name: Vector,
    to: Annotated[str, typer.Option(help="Format: lm-eval, gguf (llama.cpp, repeng, EasySteer) or pt (a state dict).")],
    output: Annotated[Path, typer.Option("--output", "--out", help="File to write.")],
    layer: Annotated[int | None, typer.Option(min=0, help="Export only this layer.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Strength to scale the vector by. Default: 1.")] = None,
) -> None:
    """Export a vector to the format of another tool."""
    from lmms_steer.vectors.formats import export_vector
    from lmms_steer.vectors.steering_vectors import SteeringVectors
    from lmms_steer.vectors.store import find

    echo_lines(export_vector(SteeringVectors.load(find(name, None).path), to, output, layer, alpha))


@commands.command("import")
def import_vector(
    file: Annotated[Path, typer.Argument(help="The .gguf or .pt file.")],
    backbone: Annotated[str, typer.Option(help="Model that the vector was made from.")],
    concept: Annotated[str, typer.Option(help="Name of the concept.")],
    method: Annotated[str, typer.Option(help="Name of the method.")] = "imported",
    layer: Annotated[int | None, typer.Option(min=0, help="Layer of a single tensor.")] = None,
    store: Annotated[Path | None, typer.Option(help="Store to write to. Default: yours.")] = None,
    name: Annotated[
        str | None, typer.Option(help="The model's name in the store. Default: the end of --backbone.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a vector of the same name with other content.")
    ] = False,
) -> None:
    """Import another tool's file (.gguf, .pt) into a store. Only tensors are read from a .pt; it cannot run code."""
    from lmms_steer._util.formatting import format_shape
    from lmms_steer.vectors.formats import import_vector
    from lmms_steer.vectors.ownership import save_imported
    from lmms_steer.vectors.weights import model_source

    source = model_source(backbone, store_name=name)
    vectors = import_vector(file, layer, {**source, "concept": concept, "method": method})
    path = save_imported(vectors, store, replace)
    echo(f"{vectors.name}: {format_shape(vectors.layers, vectors.hidden_size, vectors.patches)} -> {path}")


@commands.command("push")
def push_vectors(
    names: Annotated[list[str], typer.Argument(help="Names of vectors in a store.")],
    repo: Annotated[str, typer.Option(help="Repository on the Hub: USER/NAME.")],
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository as private if it does not exist.")
    ] = False,
) -> None:
    """Upload vectors to the Hugging Face Hub, with a card written from their provenance."""
    from lmms_steer.vectors.hub import push_vectors

    echo_lines(push_vectors(names, repo, private))


@commands.command("pull")
def pull_vectors(
    repo: Annotated[str, typer.Argument(help="Repository on the Hub: USER/NAME.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    store: Annotated[Path | None, typer.Option(help="Store to write to. Default: yours.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace files of the same name with different content.")
    ] = False,
) -> None:
    """Download all vectors of a repository on the Hugging Face Hub."""
    from lmms_steer.vectors.hub import pull_vectors

    echo_lines(pull_vectors(repo, revision, store, replace))
