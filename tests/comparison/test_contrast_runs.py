"""Roles of runs: contrasts stand beside steered systems and are never the baseline; vectors may be controls."""

from pathlib import Path
from typing import Any

import pytest

from lmms_steer import UserError
from lmms_steer.comparison.leaderboard import build_leaderboard
from lmms_steer.comparison.provenance import run_provenance
from lmms_steer.comparison.records import leaderboard_records
from lmms_steer.comparison.systems import read_comparison
from lmms_steer.comparison.tables import markdown, text_table
from tests.helpers.runs import BASE, STEERED, write_run


def test_a_contrast_is_a_system_and_never_the_baseline_by_itself(tmp_path: Path) -> None:
    for name, control, spec in (("vcd", False, ""), ("bias", True, ""), ("both", False, "vector=v,layer=1")):
        contrast: Any = {"name": name, "alpha": 0.5, "image": "noise", "control": control}
        record = {"model": "tiny", "spec": spec, "sha256": None, "vectors": [], "contrast": contrast}
        settings = {"model_args": f"pretrained=tiny,{'contrast=vcd,contrast_alpha=0.5' if control else 'preset=vcd'}"}
        write_run(tmp_path / name, {"a": STEERED}, spec=None, config=settings, results={"steering": record})
    write_run(tmp_path / "plain", {"a": BASE}, config={"model_args": "pretrained=tiny"})
    systems = read_comparison([str(tmp_path)]).systems
    roles = {name: system.role for name, system in systems.items()}
    assert roles == {"plain": "baseline", "vcd": "other", "bias": "control", "both": "steered"}
    rows = {row.system: row for row in build_leaderboard(systems, ())}
    assert rows["vcd"].gain == 0.1 and not rows["vcd"].differences and not rows["bias"].differences
    specs = [run_provenance(systems[name].tasks["a"]).spec for name in ("vcd", "both")]
    assert specs[0] == "contrast=vcd,contrast_alpha=0.5,contrast_image=noise"
    assert specs[1].startswith("vector=v,layer=1, contrast=both,contrast_alpha=0.5")


def test_a_vector_that_was_extracted_as_a_control_makes_a_control(tmp_path: Path) -> None:
    write_run(tmp_path / "plain", {"a": BASE})
    methods = {"own": ["mean_shift"], "shuffled": ["mean_shift-shuffled"], "both": ["pca", "shuffled_images"]}
    for name, of_vectors in methods.items():
        vectors = [{"name": "v", "sha256": "6" * 64, "provenance": {"method": method}} for method in of_vectors]
        record = {"model": "tiny", "spec": "vector=v,layer=1", "sha256": "5" * 64, "vectors": vectors}
        write_run(tmp_path / name, {"a": STEERED}, spec=None, results={"steering": record})
    roles = {name: system.role for name, system in read_comparison([str(tmp_path)]).systems.items()}
    assert roles == {"plain": "baseline", "own": "steered", "shuffled": "control", "both": "steered"}


def test_measured_divergence_has_a_column_and_is_no_difference_between_runs(tmp_path: Path) -> None:
    measured: dict[str, dict[str, Any]] = {"near": {"nats": 0.314, "questions": 64}, "broken": {"questions": 64}}
    write_run(tmp_path / "baseline", {"t": [1.0, 0.0] * 8}, config={"model_args": "pretrained=tiny"})
    for name, entry in measured.items():
        write_run(
            tmp_path / name, {"t": [1.0, 1.0] * 8}, config={"model_args": "pretrained=tiny,vector=v,divergence=64"},
            results={"steering": {"model": "tiny", "spec": "vector=v,layer=1", "divergence": {"t": entry}}}, spec=None,
        )  # fmt: skip
    rows = build_leaderboard(read_comparison([f"{tmp_path}/{name}" for name in ("baseline", *measured)]).systems)
    titles, cells = text_table(rows)
    assert [row[titles.index("KL")] for row in cells] == ["", "0.31", "∞"]
    assert "KL: how far answers are" in markdown(rows) and "KL:" not in markdown(rows[:1])
    assert not any(row.refused or row.differences for row in rows)
    assert leaderboard_records(rows)[1].divergence == 0.314
    write_run(
        tmp_path / "text", {"t": [1.0, 1.0] * 8}, spec=None,
        results={"steering": {"spec": "v", "divergence": {"t": {"nats": "far", "questions": 64}}}},
    )  # fmt: skip
    with pytest.raises(UserError, match="divergence.t.nats is 'far', not a whole number or a number"):
        read_comparison([f"{tmp_path}/{name}" for name in ("baseline", "text")])
