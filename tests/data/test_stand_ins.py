"""Stand-ins and the registry of benchmarks."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lmms_steer.data.benchmarks import Benchmark, benchmarks, cvbench, official_rows, register_benchmark, vsr, whatsup
from lmms_steer.data.importing import import_release
from lmms_steer.data.stand_ins import write_stand_ins

NAMES = "blink chartqa clevr clevr_count coco_captions cvbench docvqa superclevr vqav2 vsr vtabfact whatsup".split()


@pytest.fixture(autouse=True)
def small_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the 150 questions of each task of CV-Bench for the paper's splits."""
    monkeypatch.setattr(cvbench, "_TEST_QUESTIONS", 2)


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_benchmark_that_ships_is_registered() -> None:
    assert sorted(benchmarks) == NAMES
    assert all(entry.name == name and entry.description for name, entry in benchmarks.entries().items())
    assert len(official_rows()) == 14 + 9 + 2 + 2
    assert official_rows()["cvbench"] == {"test": 2638}


@pytest.mark.slow
def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    assert list(write_stand_ins(tmp_path / "first", questions=2)) == NAMES
    write_stand_ins(tmp_path / "again", questions=2)
    write_stand_ins(tmp_path / "other", questions=2, seed=1)
    first, again, other = (hashes(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert first.keys() == other.keys()
    assert [name for name in first if first[name] == other[name]] == []


@pytest.mark.parametrize("name", ["clevr", "superclevr", "vsr", "whatsup"])
def test_a_release_that_is_generated_again_is_a_new_one_and_its_copies_stay(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (vsr, whatsup):
        monkeypatch.setattr(module, "HELD_OUT", 1)

    def generate(folder: str, questions: int, seed: int) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        benchmarks.get(name).write_stand_in(tmp_path / folder, questions, random.Random(seed))
        return tmp_path / folder

    list(import_release(name, generate("again", 5, seed=0), tmp_path / "data"))
    copies = hashes(tmp_path / "data")
    assert hashes(generate("again", 9, seed=1)) == hashes(generate("fresh", 9, seed=1))
    assert hashes(tmp_path / "data") == copies


@pytest.mark.slow
def test_registered_benchmark_is_imported_and_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_nothing(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
        yield from ()

    def write_file(folder: Path, questions: int, rng: random.Random) -> None:
        (folder / "file").write_text(f"{questions}")

    monkeypatch.setattr(benchmarks, "_entries", dict(benchmarks.entries()))
    mine = register_benchmark(Benchmark("mine", "a test", {"mine": {"test": 2}}, import_nothing, write_file))
    with pytest.raises(ValueError, match="already registered"):
        register_benchmark(replace(mine, description="another"))
    assert write_stand_ins(tmp_path, questions=2)["mine"] == tmp_path / "mine"
    assert (tmp_path / "mine/file").read_text() == "2"
    assert list(import_release("mine", tmp_path / "mine", tmp_path / "data")) == []
    assert official_rows()["mine"] == {"test": 2}
