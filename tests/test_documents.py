"""Every command in the read-mes and docs is one that its program takes; those on the embedded model are run."""

import os
from pathlib import Path

import pytest

from lmms_steer.recipes import in_process as inside
from lmms_steer.tiny_world.question_sets import load_question_set
from tests.helpers.documents import PAGES, ROOT, blocks, lines, parse, runnable, with_environment

RUN = [page for page in PAGES if page.name in ("tutorial.md", "vectors.md", "models.md", "concept.md", "recipes.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: "/".join(page.parts[-2:]))
def test_every_command_of_a_page_is_taken_by_its_program(page: Path) -> None:
    for line in lines(page):
        try:
            parse(line)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{line}: {error!r}")
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


def test_a_misspelt_command_does_not_pass(tmp_path: Path) -> None:
    from tests.helpers.documents import Line

    for wrong in (
        "lmms-steer extrct --backbone tiny-gemma2 --concept spatial",
        "lmms-steer search --vector spatial --tsk tiny_spatial_select",
        "lmms-eval --model steered_paligema --model_args pretrained=x --tasks tiny_spatial",
        "lmms-eval --model steered_paligemma --model_args pretrained=x,layr=3 --tasks tiny_spatial",
        "lmms-eval --model steered_paligemma --model_args pretrained=x --tasks tiny_spatail",
        "make demoo",
        "pip install lmms-steer[nothing]",
        "lmms-ster tasks",
    ):
        with pytest.raises((Exception, SystemExit)):
            parse(Line("page", tuple(wrong.split())))


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_a_page_s_commands_on_the_embedded_model_run_one_after_another(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    load_question_set("spatial", "test")[0]["image"].save("scene.png")
    for block in blocks(page, "yaml"):
        name = block.splitlines()[0].removeprefix("# ")
        if block.startswith("# ") and "/" not in name:
            Path(name).write_text(block)
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {})  # noqa: S102  the page's own
    log = tmp_path / "log"
    for line in lines(page):
        words = runnable(line)
        if words:
            with with_environment(line), capfd.disabled():
                status = inside.run_in_process(words, log)
            assert status == 0, (str(line), log.read_text()[-2000:])
    if page.name == "tutorial.md":
        # who follows it in a clone leaves nothing there that git would add
        left = {f"/{path.name}/" if path.is_dir() else f"/{path.name}" for path in tmp_path.iterdir() if path != log}
        assert left <= set((ROOT / ".gitignore").read_text().split())
    assert os.environ["HF_HUB_OFFLINE"] == "1"
