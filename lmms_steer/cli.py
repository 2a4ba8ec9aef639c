"""`lmms-steer …`: one short function a verb, no logic of its own."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lmms_steer import __version__
from lmms_steer.errors import UserError

app = typer.Typer(
    help="Steer multimodal language models inside lmms-eval, with vectors made from text alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
vectors_app = typer.Typer(help="The vectors that a spec can name.", no_args_is_help=True, rich_markup_mode=None)
concepts_app = typer.Typer(help="The sentence-anchor pairs that ship.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(vectors_app, name="vectors")
app.add_typer(concepts_app, name="concepts")


def main() -> None:
    """The console script: a user's mistake is one line and status 2, an interrupt status 130."""
    try:
        app(standalone_mode=True)
    except UserError as error:
        _say(f"lmms-steer: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        _say("lmms-steer: stopped", err=True)
        sys.exit(130)


def _say(line: str, err: bool = False) -> None:
    typer.echo(line, err=err)


def _version(wanted: bool) -> None:
    if wanted:
        _say(f"lmms-steer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command()
def extract(
    backbone: Annotated[str, typer.Option(help="Text model: a Hub id, a folder, or tiny-gemma2.")],
    concept: Annotated[str, typer.Option(help="A concept, several with commas, a YAML file, or all.")],
    method: Annotated[str, typer.Option(help="How directions are computed; several with commas.")] = "mean_shift",
    store: Annotated[Path | None, typer.Option(help="Store to file them in; yours where unsaid.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences a forward call.")] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0, …")] = None,
) -> None:
    """Make a concept's vectors from a text backbone, at every layer in one pass."""
    from lmms_steer.extraction.command import extract as run

    for line in run(backbone, concept.split(","), method.split(","), store, batch_size, device):
        _say(line)


@vectors_app.command("list")
def list_vectors() -> None:
    """Every vector that a name reaches; yours hide shipped ones of the same name."""
    from lmms_steer.store import entries, user_store
    from lmms_steer.vectors import read_provenance

    found = list(entries())
    width = max((len(entry.name) for entry in found), default=0)
    for entry in found:
        try:
            made = read_provenance(entry.path)
        except UserError as error:
            _say(f"{entry.name:{width}}  damaged: {error}")
            continue
        shape = f"{made['n_layers']} layers x {made['hidden_size']}"
        _say(f"{entry.name:{width}}  {shape:16}  {entry.origin:8} {made['settings'].get('anchors', '-')} anchors")
    _say(f"\n{len(found)} vectors; yours are kept in {user_store()}")


@vectors_app.command("show")
def show_vector(name: str) -> None:
    """Where a vector comes from, and its norm at each layer."""
    import numpy as np
    import yaml

    from lmms_steer.store import find
    from lmms_steer.vectors import SteeringVectors

    vectors = SteeringVectors.load(find(name, None).path)
    _say(yaml.safe_dump({"sha256": vectors.sha256, **vectors.provenance}, sort_keys=False, allow_unicode=True).rstrip())
    _say("norms:")
    for layer in vectors:
        _say(f"  {layer}: {float(np.linalg.norm(vectors[layer])):.4g}")


@concepts_app.command("list")
def list_concepts() -> None:
    """The concepts that ship."""
    from lmms_steer import concepts

    for concept in concepts.shipped():
        _say(f"{concept.name:14} {len(concept.pairs):3} pairs  {concept.about}")


@app.command()
def tasks(
    path: Annotated[bool, typer.Option("--path", help="Print the folder, for lmms-eval's --include_path.")] = False,
) -> None:
    """Our tasks and groups, as `lmms-eval --tasks` takes them."""
    from lmms_steer.task_names import task_names, tasks_dir

    _say(tasks_dir() if path else "\n".join(task_names()))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs, the table and the page.")] = Path("demo"),
) -> None:
    """The whole line on the tiny model that ships: extract, choose, evaluate, compare; ends with a table and a page."""
    from lmms_steer.demo.run import run

    run(out)


if __name__ == "__main__":
    main()
