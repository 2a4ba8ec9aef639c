"""`lmms-steer tasks` and `lmms-steer lm-eval`: what the harnesses are told."""

from typing import Annotated

import typer

from lmms_steer.errors import UserError

commands = typer.Typer(rich_markup_mode=None)


@commands.command()
def tasks(
    path: Annotated[bool, typer.Option("--path", help="Print the folder, for lmms-eval's --include_path.")] = False,
) -> None:
    """Our tasks and groups, as `lmms-eval --tasks` takes them."""
    from lmms_steer.harness.task_files import our_tasks, tasks_dir

    typer.echo(tasks_dir() if path else "\n".join(sorted(our_tasks())))


@commands.command(
    "lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def lm_eval(context: typer.Context) -> None:
    """lm-evaluation-harness's own command line, with the models steered_hf and steered_hf_multimodal."""
    try:
        from lmms_steer.harness.lm_eval import run
    except ImportError as error:
        raise UserError("lm-evaluation-harness is not installed: pip install 'lmms-steer[lm-eval]'") from error

    run(context.args)
