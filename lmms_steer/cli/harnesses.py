"""`lmms-steer tasks`, `presets` and `lm-eval`: our tasks, other methods' settings, and our models in lm-eval."""

from typing import Annotated

import typer

from lmms_steer._util.extras import missing_extra

commands = typer.Typer(rich_markup_mode=None)


@commands.command()
def tasks(
    path: Annotated[
        bool, typer.Option("--path", help="Print the folder of the tasks instead, for lmms-eval's --include_path.")
    ] = False,
) -> None:
    """List our tasks and groups by the names that `lmms-eval --tasks` takes."""
    from lmms_steer.harness.task_files import our_tasks, tasks_dir

    typer.echo(tasks_dir() if path else "\n".join(sorted(our_tasks())))


@commands.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Show what this preset stands for, and its source.")] = None,
) -> None:
    """List other methods' settings by the names that `preset=NAME` takes in --model_args."""
    from lmms_steer.harness.presets import preset_lines

    typer.echo("\n".join(preset_lines(name)))


@commands.command(
    "lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def lm_eval(context: typer.Context) -> None:
    """Run the command line of lm-evaluation-harness with the models steered_hf and steered_hf_multimodal added."""
    try:
        from lmms_steer.harness.lm_eval_command import run
    except ImportError as error:
        raise missing_extra("lm-eval", "this command", ["lm_eval"]) from error

    run(context.args)
