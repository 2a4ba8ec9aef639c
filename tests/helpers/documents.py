"""The commands in the read-mes and docs: found, parsed by the programs' own parsers, and some of them run."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import typer

from lmms_steer.cli import app
from lmms_steer.harness import task_files
from lmms_steer.harness.plugin import MODELS, wrapped_names
from lmms_steer.steering.spec import SteeringSpec

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "tasks").rglob("README.md"))]
ELSEWHERE = {"optuna-dashboard"}
"""Programs of other projects that a page may name."""


@dataclass(frozen=True)
class Line:
    page: str
    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if match[1] in languages:
            yield match[2]


def lines(page: Path) -> Iterator[Line]:
    """Every command in a page's blocks without a language or of a shell; drawings have none of its programs."""
    kept: dict[str, str] = {}
    for block in blocks(page, "", "sh", "bash", "console"):
        if any(sign in block for sign in "─│▸▶"):
            continue
        for text in block.replace("\\\n", " ").splitlines():
            words = shlex.split(text, comments=True)
            if words[:1] == ["export"]:
                kept |= dict([words[1].split("=", 1)])
                continue
            here = dict(kept)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                here |= dict([words.pop(0).split("=", 1)])
            if words:
                yield Line(str(page.relative_to(ROOT)), (Path(words[0]).name, *words[1:]), tuple(here.items()))


def parse(line: Line) -> None:
    """Raises where the program that is named would refuse its arguments, or a name among them leads nowhere."""
    program, *args = line.words
    if program in ("torchrun", "accelerate") or (program == "python" and args[:2] == ["-m", "lmms_eval"]):
        program, args = "lmms-eval", args[args.index("lmms_eval") + 1 :]
    if program == "lmms-steer":
        _parse_ours(args)
    elif program == "lmms-eval":
        _parse_lmms_eval(args)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(args) <= set(targets), args
    elif program == "python" and args[:1] == ["-m"]:
        assert find_spec(args[1]), args
    elif program == "pip":
        extras = re.findall(r"^(\S+) =$", (ROOT / "setup.cfg").read_text().split("extras_require]")[1], re.MULTILINE)
        asked = re.fullmatch(r"(?:\.|lmms-steer)(?:\[(.+)\])?", args[-1])
        assert args[0] == "install" and asked and set((asked[1] or extras[0]).split(",")) <= set(extras), args
    else:
        assert program in ELSEWHERE, program


def _parse_ours(args: list[str]) -> None:
    found: dict[str, Any] = {}
    command = typer.main.get_command(app)
    with _recorded(command, found):
        command.main(args, prog_name="lmms-steer", standalone_mode=False)
    if found.get("model_args"):
        _check_model_args(found["model"], found["model_args"])
    if found.get("task") and not found["include_path"]:
        assert found["task"] in task_files.our_tasks(), found["task"]
    if args[0] == "lm-eval":
        assert args[1] == "run" and args[args.index("--model") + 1] in ("steered_hf", "steered_hf_multimodal")


def _recorded(command: Any, found: dict[str, Any]) -> Any:
    """Each command notes what it was called with, and does nothing."""
    patches = mock.patch.multiple(command, callback=lambda **given: found.update(given) if given else None)
    stack = [patches]
    for child in getattr(command, "commands", {}).values():
        stack.append(_recorded(child, found))
    return _all(stack)


class _all:
    def __init__(self, managers: list[Any]) -> None:
        self.managers = managers

    def __enter__(self) -> None:
        for manager in self.managers:
            manager.__enter__()

    def __exit__(self, *error: object) -> None:
        for manager in self.managers:
            manager.__exit__(*error)


def _parse_lmms_eval(args: list[str]) -> None:
    from lmms_eval.__main__ import parse_eval_args

    with mock.patch.object(sys, "argv", ["lmms-eval", *args]):
        _, parsed = parse_eval_args()
    _check_model_args(parsed.model, parsed.model_args)
    mine = "--include_path" in args
    for task in parsed.tasks.split(","):
        assert mine or task_files.kind_of(task), task


def _check_model_args(model: str, model_args: str) -> None:
    from lmms_steer.harness.steered import SteeredVlm

    assert model in MODELS or model in wrapped_names(), model
    given = dict(pair.split("=", 1) for pair in model_args.split(","))
    assert set(given) <= set(SteeredVlm.known_args()), given
    spec = {key: value for key, value in given.items() if key in SteeringSpec.__dataclass_fields__ or key in SPEC}
    if "vector" in spec:
        SteeringSpec.from_dicts([spec])


SPEC = ("vector", "layer", "alpha", "tokens", "phase", "operation", "scale", "gamma_image", "gamma_text", "control")
CHEAP = {
    "extract",
    "search",
    "inspect",
    "tasks",
    "compare",
    "vectors list",
    "vectors show",
    "vectors compare",
    "vectors export",
    "vectors import",
    "concepts list",
    "concepts show",
    "data check",
}


def runnable(line: Line) -> tuple[str, ...] | None:
    """The command, cut to a few questions, where it needs nothing but the package and what the page made before."""
    program, *args = line.words
    if program == "lmms-steer":
        verb = " ".join(args[:2]) if args[0] in ("vectors", "concepts", "data") else args[0]
        if verb == "run":
            return line.words if "--dry-run" in args else None
        foreign = re.search(r"[\w-]+/(?!tiny)[\w.-]+-\d|Qwen|gemma-2-2b|google|\byou/|DOWNLOADED|CLEVR", " ".join(args))
        if verb not in CHEAP or foreign or "all" in args:
            return None
        return (*line.words, "--limit", "4", *_smaller(args)) if verb == "search" else line.words
    if program == "lmms-eval" and "pretrained=tiny-paligemma2" in " ".join(args):
        return (*line.words, "--limit", "4")
    return None


def _smaller(args: list[str]) -> list[str]:
    return [] if "--controls" in args else ["--controls", "1"]


def with_environment(line: Line) -> Any:
    return mock.patch.dict(os.environ, dict(line.environment))
