"""Check lmms-eval's options for a run of one of our models, before the first question is asked."""

import inspect
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from lmms_steer.errors import UserError, unknown_name
from lmms_steer.harness.arguments import split_args
from lmms_steer.harness.tasks import refuse_examples
from lmms_steer.models.generation import KNOWN, SETTINGS, TRANSFORMERS, check_given_settings
from lmms_steer.models.vlm import HfVlm

MOST = "max_new_tokens"


def check_run(
    lm: Any, task_dict: Mapping[Any, Any], cli_args: Any, options: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Check the options of a command, and the tasks' `generation_kwargs`.

    Args:
        lm: the model.
        task_dict: the loaded tasks and groups of tasks, as lmms-eval nests them.
        cli_args: the parsed command line; None if lmms-eval is used as a library.
        options: the arguments of lmms-eval's `evaluate`.

    Raises:
        UserError: for a setting that is given several times, unknown, not supported, or without an effect, for a limit
            of 0, for an option that changes prompts, where the models of lmms-eval make prompts themselves, and for a
            task that our own models cannot do.
    """
    check_prompt_options(lm, list(_tasks(task_dict)), getattr(cli_args, "num_fewshot", None), options)
    given = split_args(str(getattr(cli_args, "gen_kwargs", None) or ""), "--gen_kwargs")
    tasks = [task for task in _tasks(task_dict) if "generate_until" in task.config.output_type]
    if given and not tasks:
        raise UserError("--gen_kwargs has no effect: none of the tasks generates text")
    if getattr(cli_args, "limit", None) == 0:
        raise UserError("--limit 0 leaves no questions: leave it out for all of them")
    if isinstance(lm, HfVlm):
        lm.check_kinds({task.config.output_type for task in _tasks(task_dict)})
    for task in tasks:
        settings = task.config.generation_kwargs or {}
        if isinstance(lm, HfVlm):
            check_given_settings(settings, given)
        else:
            _check_wrapper_settings(lm, given)


def check_prompt_options(lm: Any, tasks: list[Any], num_fewshot: int | None, options: Mapping[str, Any]) -> None:
    """Refuse the options that change the text of prompts.

    lmms-eval 0.7.3 takes them over from lm-eval, but applies them to the text alone: a system instruction is glued to
    the first word of the question, and examples come without their images.

    Args:
        lm: the model.
        tasks: the loaded tasks.
        num_fewshot: of the command line.
        options: the arguments of lmms-eval's `evaluate`.

    Raises:
        UserError: for such an option, or a task that asks for examples.
    """
    if options.get("apply_chat_template"):
        raise chat_template_error()
    if options.get("fewshot_as_multiturn"):
        raise UserError("--fewshot_as_multiturn: there are no examples in the prompts of these models; leave it out")
    if options.get("system_instruction") is not None:
        instead = "give text before every question as prompt_prefix in --model_args"
        if not isinstance(lm, HfVlm):
            instead = "leave it out, or use the wrapper's own argument if it has one (system_prompt)"
        raise UserError(f"--system_instruction would run into each question's first word, or be ignored: {instead}")
    if num_fewshot:
        raise UserError(f"--num_fewshot {num_fewshot}: lmms-eval gives examples without their images; leave it out")
    for task in tasks:
        refuse_examples(task)


def chat_template_error() -> UserError:
    """The error for `--apply_chat_template`, which would format a prompt twice."""
    return UserError(
        "--apply_chat_template: lmms-eval's models apply the checkpoint's chat template themselves, images included;"
        " leave it out (prompt_format=chat in --model_args chooses it explicitly)"
    )


def _tasks(task_dict: Mapping[Any, Any]) -> Iterator[Any]:
    for task in task_dict.values():
        # a task with its group is a pair
        found = task[1] if isinstance(task, tuple) else task
        if isinstance(found, Mapping):
            yield from _tasks(found)
        elif found is not None:
            yield found


def _check_wrapper_settings(lm: Any, given: Mapping[str, str]) -> None:
    """Check the names, and that tokens are generated: each wrapper reads the settings in its own way."""
    modules = {parent.__module__ for parent in type(lm).__mro__ if parent.__module__.startswith("lmms_eval.models.")}
    sources = [inspect.getsource(sys.modules[name]) for name in modules]
    if MOST in given:
        SETTINGS[MOST].read(MOST, given[MOST])
    for name in given:
        if name in TRANSFORMERS or name in KNOWN or any(f"{q}{name}{q}" in text for text in sources for q in "'\""):
            continue
        raise unknown_name("key", name, {*KNOWN, *TRANSFORMERS}, "in --gen_kwargs")
