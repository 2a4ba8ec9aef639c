"""The commands in the READMEs and pages: find them, parse them with their programs' own parsers, run some of them."""

import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import typer

from lmms_steer.cli import app
from lmms_steer.harness import task_files
from lmms_steer.harness.names import MODELS, steered_names_on_disk
from lmms_steer.recipes.in_process import run_in_process
from lmms_steer.smol.wheel import INSTALL
from lmms_steer.steering.budget import take_budget
from lmms_steer.steering.spec import SteeringSpec

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "tasks").rglob("README.md"))]
EXTENSION_PAGE = ROOT / "docs" / "howto" / "extend.md"
"""Its commands use the plugins that it shows, so they need those to be installed."""
OTHER_PROGRAMS = {"optuna-dashboard"}
"""Programs of other projects that a page may name."""
SPEC_KEYS = (
    "vector",
    "layer",
    "alpha",
    "tokens",
    "phase",
    "operation",
    "scale",
    "gamma_image",
    "gamma_text",
    "control",
)
QUICK = {
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
    "data questions",
    "leaderboard init",
    "leaderboard add",
    "leaderboard check",
    "leaderboard build",
}
"""Commands of `lmms-steer` that are run, on the embedded model."""


@dataclass(frozen=True)
class Line:
    """A command as a page shows it.

    Attributes:
        page: path of the page in the repository.
        words: the program and its arguments.
        environment: variables set before it, by `export` in the same page or in front of it.
    """

    page: str
    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The fenced blocks of a page in one of the languages; "" for blocks without a language."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if match[1] in languages:
            yield match[2]


def lines(page: Path) -> Iterator[Line]:
    """Every command in a page's blocks that have no language or a shell's."""
    exported: dict[str, str] = {}
    for block in blocks(page, "", "sh", "bash", "console"):
        for text in block.replace("\\\n", " ").splitlines():
            words = shlex.split(text, comments=True)
            if words[:1] == ["export"]:
                exported |= dict([words[1].split("=", 1)])
                continue
            environment = dict(exported)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                environment |= dict([words.pop(0).split("=", 1)])
            if words:
                name = Path(words[0]).name
                yield Line(str(page.relative_to(ROOT)), (name, *words[1:]), tuple(environment.items()))


def quoted_output(page: Path) -> list[str]:
    """The lines that a page quotes from its commands' output, without "…" for what it leaves out."""
    quoted = [line.strip() for block in blocks(page, "output") for line in block.splitlines()]
    return [line for line in quoted if line and line != "…"]


def parse(line: Line) -> None:
    """Parse a command as its program would, and look up the names in it.

    Raises:
        an exception or SystemExit: if the program would refuse the arguments, or a name does not exist.
    """
    program, *args = line.words
    if program in ("torchrun", "accelerate") or (program == "python" and args[:2] == ["-m", "lmms_eval"]):
        program, args = "lmms-eval", args[args.index("lmms_eval") + 1 :]
    if program == "lmms-steer":
        _parse_lmms_steer(args)
    elif program == "lmms-eval":
        _parse_lmms_eval(args)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(args) <= set(targets), args
    elif program == "python" and args[:1] == ["-m"]:
        assert find_spec(args[1]), args
    elif program == "pip":
        extras = re.findall(r"^(\S+) =$", (ROOT / "setup.cfg").read_text().split("extras_require]")[1], re.MULTILINE)
        package = re.fullmatch(r"(?:\.|lmms-steer)(?:\[(.+)\])?", args[-1])
        if args == INSTALL.split()[1:]:
            return
        assert args[0] == "install" and package and set((package[1] or extras[0]).split(",")) <= set(extras), args
    else:
        assert program in OTHER_PROGRAMS, program


def _parse_lmms_steer(args: list[str]) -> None:
    given: dict[str, Any] = {}
    command = typer.main.get_command(app)
    with _without_callbacks(command, given):
        command.main(args, prog_name="lmms-steer", standalone_mode=False)
    if given.get("model_args"):
        _check_model_args(given["model"], given["model_args"])
    if given.get("task") and not given.get("include_path") and given.get("harness", "lmms-eval") == "lmms-eval":
        assert given["task"] in task_files.our_tasks(), given["task"]
    if args[0] == "lm-eval":
        assert args[1] == "run" and args[args.index("--model") + 1] in ("steered_hf", "steered_hf_multimodal")


@contextmanager
def _without_callbacks(command: Any, given: dict[str, Any]) -> Iterator[None]:
    """Inside, a command and its subcommands only record their arguments in `given`."""

    def record(**arguments: Any) -> None:
        given.update(arguments)

    with ExitStack() as stack:
        pending = [command]
        while pending:
            current = pending.pop()
            stack.enter_context(mock.patch.object(current, "callback", record))
            pending += getattr(current, "commands", {}).values()
        yield


def _parse_lmms_eval(args: list[str]) -> None:
    from lmms_eval.__main__ import parse_eval_args

    with mock.patch.object(sys, "argv", ["lmms-eval", *args]):
        _, parsed = parse_eval_args()
    _check_model_args(parsed.model, parsed.model_args)
    for task in parsed.tasks.split(","):
        assert "--include_path" in args or task_files.kind_of(task), task


def _check_model_args(model: str, model_args: str) -> None:
    from lmms_steer.harness.steered import SteeredVlm

    assert model in MODELS or model in steered_names_on_disk(), model
    given = dict(pair.split("=", 1) for pair in model_args.split(","))
    assert set(given) <= set(SteeredVlm.known_args()), given
    if "vector" in given:
        keys, _ = take_budget({key: value for key, value in given.items() if key in SPEC_KEYS})
        SteeringSpec.from_dicts([keys])


def runnable(line: Line) -> tuple[str, ...] | None:
    """The command limited to a few questions; None if it needs more than the package and the page's earlier steps."""
    program, *args = line.words
    if program == "lmms-steer":
        command = " ".join(args[:2]) if args[0] in ("vectors", "concepts", "data", "leaderboard") else args[0]
        if command == "run":
            return line.words if "--dry-run" in args else None
        foreign = re.search(
            r"[\w-]+/(?!tiny)[\w.-]+-\d|Qwen|gemma-2-2b|google|smollm2|\byou/|DOWNLOADED|CLEVR", " ".join(args)
        )
        if command not in QUICK or foreign or "all" in args:
            return None
        return (*line.words, "--limit", "4", *_fewer_controls(args)) if command == "search" else line.words
    if program == "lmms-eval" and "pretrained=tiny-paligemma2" in " ".join(args):
        return (*line.words, "--limit", "4")
    return None


def _fewer_controls(args: list[str]) -> list[str]:
    return [] if "--controls" in args else ["--controls", "1"]


def run_commands(page: Path, log: Path) -> str:
    """Run a page's commands on the embedded model in the current folder, one after another.

    Args:
        page: the page.
        log: a file for the output of one command at a time.

    Returns:
        everything that they printed.

    Raises:
        AssertionError: for a command that ends with another status than 0.
    """
    printed = []
    for line in lines(page):
        words = runnable(line)
        if words:
            with with_environment(line):
                status = run_in_process(words, log)
            printed.append(log.read_text(encoding="utf-8", errors="replace"))
            assert status == 0, (str(line), printed[-1][-2000:])
    return "".join(printed)


def with_environment(line: Line) -> AbstractContextManager[Any]:
    """Inside, the command's variables are set."""
    return mock.patch.dict(os.environ, dict(line.environment))


def install_example_package(page: Path, folder: Path) -> list[Path]:
    """Write a page's Python files and the metadata of its package, so that `folder` on the path has it installed.

    A block that begins with a comment such as `# my_steering.py` is a part of that file.

    Returns:
        the scripts: the files that the package does not contain.
    """
    files: dict[str, str] = {}
    for block in blocks(page, "python", "toml"):
        name = block.splitlines()[0].removeprefix("# ")
        files[name] = files.get(name, "") + block
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    settings = tomllib.loads(files["pyproject.toml"])
    name, version = settings["project"]["name"], settings["project"]["version"]
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = settings["project"]["entry-points"].items()
    sections = [[f"[{group}]", *(f"{key} = {value}" for key, value in points.items())] for group, points in groups]
    (info / "entry_points.txt").write_text("\n".join(line for section in sections for line in section))
    modules = settings["tool"]["setuptools"]["py-modules"]
    return [folder / name for name in files if name.endswith(".py") and name.removesuffix(".py") not in modules]
