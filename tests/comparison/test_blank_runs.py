"""Runs with blank images: systems of their own, paired with each other and never with runs that saw the images."""

from pathlib import Path

from lmms_steer.comparison.leaderboard import build_leaderboard
from lmms_steer.comparison.provenance import run_provenance
from lmms_steer.comparison.systems import read_comparison
from tests.helpers.runs import BASE, STEERED, write_run


def write_blank_run(folder: Path, scores: list[float], spec: str) -> None:
    """Write a run with `image=blank`, as lmms-eval writes it."""
    steering = {"model": "tiny", "spec": spec, "sha256": "5" * 64 if spec else None, "vectors": [], "image": "blank"}
    config = {"model_args": "pretrained=tiny,image=blank"}
    write_run(folder, {"a": scores}, spec=None, config=config, results={"steering": steering})


def test_a_blank_run_is_a_control_of_its_own_that_is_paired_with_blank_runs_only(tmp_path: Path) -> None:
    seeing = {"config": {"model_args": "pretrained=tiny"}}
    write_run(tmp_path / "baseline", {"a": BASE}, **seeing)
    write_run(tmp_path / "steered", {"a": STEERED}, spec="vector=v,layer=1", **seeing)
    write_blank_run(tmp_path / "dark", BASE, "")
    write_blank_run(tmp_path / "dark-steered", STEERED, "vector=v,layer=1")
    systems = read_comparison([str(tmp_path)]).systems
    assert {name: system.role for name, system in systems.items()} == {
        "baseline": "baseline",
        "steered": "steered",
        "dark, blank image": "control",
        "dark-steered, blank image": "control",
    }
    refused = {row.system: row.refused for row in build_leaderboard(systems, ())}
    reason = "other image settings: image blank, the baseline's not set"
    assert refused["steered"] == "" and all(
        reason in refused[f"{name}, blank image"] for name in ("dark", "dark-steered")
    )
    blind = read_comparison([str(tmp_path)], baseline="dark").systems
    assert next(iter(blind)) == "dark, blank image" and blind["dark, blank image"].role == "baseline"
    rows = {row.system: row for row in build_leaderboard(blind, ())}
    assert rows["dark-steered, blank image"].gain == 0.1 and not rows["dark-steered, blank image"].refused
    assert "image not set, the baseline's blank" in rows["steered"].refused
    specs = {name: run_provenance(system.tasks["a"]).spec for name, system in systems.items()}
    assert specs["dark, blank image"] == "image=blank"
    assert specs["dark-steered, blank image"] == "vector=v,layer=1, image=blank"
