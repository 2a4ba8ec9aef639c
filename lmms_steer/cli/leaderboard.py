"""`lmms-steer leaderboard`: a leaderboard that other people add to."""

from pathlib import Path
from typing import Annotated

import typer

from lmms_steer.cli.command_list import CommandList
from lmms_steer.cli.output import echo, echo_lines

commands = typer.Typer(
    cls=CommandList,
    help="A leaderboard that other people add to: a folder of checked entries, and its page.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_Board = Annotated[Path, typer.Argument(help="The leaderboard's folder.")]


@commands.command("init")
def init_board(
    folder: _Board,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Leaderboard",
    repository: Annotated[str, typer.Option(help="Where it is published: https://github.com/OWNER/NAME.")] = "",
) -> None:
    """Make an empty leaderboard. Files that are there already stay as they are."""
    from lmms_steer.board.templates import init_board as init

    echo_lines(init(folder, title, repository))


@commands.command("add")
def add_runs(
    folder: _Board,
    runs: Annotated[list[str], typer.Argument(help="Output folders of lmms-eval or lm-eval, or NAME=FOLDER.")],
    studies: Annotated[
        list[Path] | None, typer.Option("--study", help="Folder with the searches that chose the specs. Repeatable.")
    ] = None,
    hub: Annotated[
        str, typer.Option(help="Hub repository of the vectors, OWNER/REPO; without it they are copied.")
    ] = "",
    by: Annotated[str, typer.Option(help="Who adds the runs. Default: git's user.name.")] = "",
    about: Annotated[str, typer.Option(help="What else a reader should know.")] = "",
    baseline: Annotated[
        str, typer.Option(help="System to compare with. Default: the only unsteered one of the model and task.")
    ] = "",
    metric: Annotated[str | None, typer.Option(help="The score that counts. Default: each task's own.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace entries that are there already.")] = False,
) -> None:
    """Add runs as entries: results, answers, scores, spec and vectors. Questions and pictures are not copied."""
    from lmms_steer.board.adding import Addition
    from lmms_steer.board.adding import add_runs as add

    echo_lines(add(folder, runs, Addition(by, about, baseline, hub, tuple(studies or ()), metric, replace)))


@commands.command("check")
def check_board(
    folder: _Board,
    every: Annotated[bool, typer.Option("--all", help="Also print what passed and what could not be checked.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write a Markdown table of all entries and checks.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one for each core.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Check all entries, including those that did not change.")
    ] = False,
) -> None:
    """Check the entries that changed, by the rules in leaderboard.yaml; exit status 1 if one is refused."""
    from lmms_steer.board.reading import read_board
    from lmms_steer.board.report import report_lines, write_report

    board = read_board(folder, workers, use_cache=not again)
    echo_lines(report_lines(board, every))
    if markdown is not None:
        write_report(board, markdown)
    if any(board.refusals()):
        raise typer.Exit(1)


@commands.command("build")
def build_board(
    folder: _Board,
    output: Annotated[Path | None, typer.Option("--output", help="Folder of the page. Default: FOLDER/site.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one for each core.")] = None,
) -> None:
    """Check the entries that changed, and write the page as static files; refused entries stand below its table."""
    from lmms_steer.board.page import build_page
    from lmms_steer.board.reading import read_board
    from lmms_steer.board.report import report_lines

    board = read_board(folder, workers)
    echo_lines(report_lines(board))
    echo_lines(build_page(folder, board, output))


@commands.command("serve")
def serve_board(
    folder: _Board,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 8000,
) -> None:
    """Build the page and show it at http://127.0.0.1:PORT until interrupted."""
    from lmms_steer.board.page import build_page
    from lmms_steer.board.reading import read_board
    from lmms_steer.board.serving import serve

    echo_lines(build_page(folder, read_board(folder)))
    serve(folder, port, echo)


@commands.command("rerun")
def rerun_entry(
    entry: Annotated[Path, typer.Argument(help="An entry's folder: LEADERBOARD/entries/MODEL/TASK/SYSTEM.")],
    limit: Annotated[int, typer.Option(min=1, help="Number of questions.")] = 50,
    offset: Annotated[
        int | None, typer.Option(min=0, help="Questions of the task to skip. Default: as many as the entry's run did.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run code that the entry names: its --include_path, or trust_remote_code.")
    ] = False,
) -> None:
    """Run an entry's command again and compare the answers; exit status 1 if one differs."""
    from lmms_steer.board.rerun import rerun

    done = rerun(entry, limit, offset, trust)
    echo_lines(done.lines)
    if done.same < done.asked or not done.asked:
        raise typer.Exit(1)
