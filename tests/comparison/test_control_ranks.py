"""A gain is ranked among those of random vectors that were added at the same place, and of no others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmms_steer import UserError, compare
from lmms_steer.comparison.command import draw_comparison, run_comparison
from lmms_steer.comparison.control_ranks import ControlRank, control_ranks
from tests.helpers.runs import BASE, TASK_CONFIG, write_run

OWN = "6" * 64
SPEC = "vector=v,layer=1,alpha=2,tokens=image"


def better_by(questions: int) -> list[float]:
    """Scores of `BASE` with that many more right answers."""
    wrong = [place for place, score in enumerate(BASE) if not score][:questions]
    return [1.0 if place in wrong else score for place, score in enumerate(BASE)]


def write(folder: Path, gain: int, spec: str, sha256: str, norms_of: str = "", **more: Any) -> None:
    """Write a run with a gain in points, of a vector that a random one may replace."""
    settings = {"seed": 1, "norms_of": norms_of} if norms_of else {"anchors": 20}
    vector = {"name": "v", "sha256": sha256, "provenance": {"settings": settings}}
    steering = {"model": "tiny", "spec": spec, "sha256": "5" * 64, "vectors": [vector], **more.pop("record", {})}
    results = {"steering": steering, **more.pop("results", {})}
    scores = dict.fromkeys(more.pop("tasks", "a"), better_by(gain))
    write_run(folder, scores, spec=None, results=results, **more)


def write_random(folder: Path, seed: int, gain: int, spec: str = SPEC, norms_of: str = OWN, **more: Any) -> None:
    """Write a run of a random vector."""
    write(folder, gain, f"{spec},control=random:{seed}", f"{seed:064}", norms_of, **more)


def ranks(folder: Path) -> list[ControlRank]:
    return list(control_ranks(compare(folder).rows))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A vector that gains 5 points, and four random ones."""
    write_run(tmp_path / "baseline", {"a": BASE})
    write(tmp_path / "own", 5, SPEC, OWN)
    for seed, gain in enumerate((3, 5, 8, 0)):
        write_random(tmp_path / f"random-{seed}", seed, gain)
    return tmp_path


def test_a_gain_is_ranked_among_random_vectors(runs: Path) -> None:
    (rank,) = ranks(runs)
    assert (rank.row.system, rank.as_good, rank.p) == ("own", 2, 3 / 5)
    assert rank.gains == pytest.approx((0.08, 0.05, 0.03, 0.0))
    gains = "its gain +5.0, theirs 0.0 to +8.0"
    line = f"random vectors: a: 2 of 4 at the same place are at least as good as own ({gains}): p = 3/5 = 0.600"
    assert str(rank) == line
    markdown, latex, html = (runs / f"t.{suffix}" for suffix in ("md", "tex", "html"))
    assert line in list(run_comparison([str(runs)], markdown=markdown, latex=latex, html=html))
    for path in (markdown, html):
        assert line in path.read_text()
    assert "2 of 4 at the same place" in latex.read_text()
    columns = ["random_vectors", "random_as_good", "random_p"]
    table = compare(runs).to_pandas().set_index("system")[columns]
    assert table.loc["own"].tolist() == [4, 2, 3 / 5]
    assert table.drop("own").isna().all(axis=None)


def test_random_vectors_with_another_prompt_do_not_count(runs: Path) -> None:
    write_run(runs / "baseline", {"a": BASE, "a_prompted": BASE})
    for seed in range(4):
        write_random(runs / f"prompted-{seed}", seed, 25, tasks=["a_prompted"])
    (rank,) = ranks(runs)
    assert rank.gains == pytest.approx((0.08, 0.05, 0.03, 0.0))


def test_ranks_are_drawn_with_a_marker_for_each_random_vector(runs: Path) -> None:
    write_random(runs / "equal", 20, 3)
    figure = compare(runs).plot("ranks")
    (axes,) = figure.axes
    marks = axes.collections[0].get_offsets()
    assert sorted(x for x, _ in marks) == pytest.approx([0, 3, 3, 5, 8]) and len({tuple(mark) for mark in marks}) == 5
    assert axes.get_title() == "a (n = 100): p = 3/6"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["5 random vectors", "own"]
    drawn = [line.get_xdata() for line in axes.lines]
    assert [5.0] in [pytest.approx(list(data)) for data in drawn]


def test_ranks_without_random_vectors_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE})
    write(tmp_path / "own", 5, SPEC, OWN)
    with pytest.raises(UserError, match="no system has 4 random vectors at the same place"):
        draw_comparison([str(tmp_path)], tmp_path / "p.png", "ranks")


def test_random_vectors_of_other_places_vectors_and_settings_do_not_count(runs: Path) -> None:
    write_random(runs / "place", 10, 9, spec=SPEC.replace("layer=1", "layer=2"))
    write_random(runs / "strength", 11, 9, spec=SPEC.replace("alpha=2", "alpha=1"))
    write_random(runs / "vector", 12, 9, norms_of="7" * 64)
    write_random(runs / "biased", 13, 9, record={"answer_bias": {"A": 1.0}})
    write_random(runs / "blind", 14, 9, record={"image": "blank"})
    write(runs / "shuffled", 9, SPEC.replace("v,", "v-shuffled,"), "8" * 64)
    assert {rank.row.system: len(rank.gains) for rank in ranks(runs)} == {"own": 4}


def test_random_vectors_of_another_task_do_not_count(runs: Path) -> None:
    write_run(runs / "baseline", {"a": BASE, "b": BASE})
    write(runs / "own", 5, SPEC, OWN, tasks="ab")
    for seed in (17, 18):
        write_random(runs / f"random-{seed}", seed, 9, tasks="b")
    assert {rank.row.task: len(rank.gains) for rank in ranks(runs)} == {"a": 4}


def test_equal_gains_of_other_questions_that_share_images_are_equal(tmp_path: Path) -> None:
    """Each vector mends ten questions more than it breaks, but other ones, whose sum may differ by rounding."""
    rng = np.random.default_rng(0)
    base = np.repeat([0.0, 1.0], 100)

    def write_equal(folder: Path, spec: str, vector: dict[str, Any]) -> None:
        scores, broken = base.copy(), int(rng.integers(0, 8))
        scores[rng.permutation(100)[: broken + 10]] = 1
        scores[100 + rng.permutation(100)[:broken]] = 0
        record = {"model": "tiny", "spec": spec, "sha256": "5" * 64, "vectors": [{"name": "v", **vector}]}
        write_run(folder, {"a": scores.tolist()}, spec=None, results={"steering": record}, sample=on_image)

    def on_image(number: int) -> dict[str, Any]:
        return {"images": [f"{number // 3:016x}"]}

    write_run(tmp_path / "baseline", {"a": base.tolist()}, sample=on_image)
    write_equal(tmp_path / "own", SPEC, {"sha256": OWN})
    for seed in range(19):
        provenance = {"settings": {"norms_of": OWN}}
        vector = {"sha256": f"{seed:064}", "provenance": provenance}
        write_equal(tmp_path / f"random-{seed}", f"{SPEC},control=random:{seed}", vector)
    (rank,) = ranks(tmp_path)
    assert (rank.as_good, rank.p) == (19, 1)


def test_the_name_of_the_vector_and_a_second_run_do_not_matter(runs: Path) -> None:
    write_random(runs / "again", 2, 8)
    assert len(ranks(runs)[0].gains) == 4
    write_random(runs / "path", 15, 9, spec=SPEC.replace("vector=v", "vector=vectors/v.safetensors"))
    assert ranks(runs)[0].as_good == 3


def test_three_random_vectors_are_too_few(runs: Path) -> None:
    for path in (runs / "random-3").rglob("*"):
        if path.is_file():
            path.unlink()
    assert ranks(runs) == []


def test_a_random_vector_that_is_not_compared_does_not_count(runs: Path) -> None:
    write_random(runs / "seed", 16, 9, config={"random_seed": 7})
    (rank,) = ranks(runs)
    assert len(rank.gains) == 4


def test_where_less_is_better_the_lowest_score_is_the_best(tmp_path: Path) -> None:
    about = {
        "configs": {"a": {**TASK_CONFIG, "metric_list": [{"metric": "acc"}]}},
        "higher_is_better": {"a": {"acc": False}},
    }
    write_run(tmp_path / "baseline", {"a": better_by(10)}, results=about)
    write(tmp_path / "own", 2, SPEC, OWN, results=about)
    for seed, score in enumerate((0, 5, 8, 20)):
        write_random(tmp_path / f"random-{seed}", seed, score, results=about)
    (rank,) = ranks(tmp_path)
    assert rank.as_good == 1 and rank.gains == pytest.approx((-0.1, -0.05, -0.02, 0.1))


@pytest.mark.parametrize(
    "provenance", [None, [], {}, {"settings": None}, {"settings": []}, {"settings": {"norms_of": 3}}]
)
def test_odd_records_have_no_rank(tmp_path: Path, provenance: Any) -> None:
    write_run(tmp_path / "baseline", {"a": BASE})
    for number, name in enumerate(("own", "x", "y", "z", "w")):
        vector = {"name": "v", "sha256": f"{number:064}", "provenance": provenance}
        spec = "what,is this" if number == 0 else f"{SPEC},control=random:{number}"
        steering = {"model": "tiny", "spec": spec, "sha256": "5" * 64, "vectors": [vector]}
        write_run(tmp_path / name, {"a": better_by(number)}, spec=None, results={"steering": steering})
    assert ranks(tmp_path) == []
