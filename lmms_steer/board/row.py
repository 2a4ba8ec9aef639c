"""A row of the board: an entry's numbers, what its checks found, and what made it. Plain values, to be cached."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from lmms_steer.board.case import BASELINE, Case
from lmms_steer.board.checks import CONTROLS, FAILED, NOT_NEEDED, OFF, PASSED, REFUSE, Outcome, checks
from lmms_steer.board.entry import STUDY
from lmms_steer.board.rules import Rules
from lmms_steer.comparison.provenance import harness_command
from lmms_steer.comparison.studies import read_cells
from lmms_steer.errors import UserError, first_line
from lmms_steer.statistics import TIE
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.controls import CONTROLS as VECTOR_CONTROLS
from lmms_steer.vectors.methods import DEFAULT_METHOD

_MAX_TEXT = 4000


@dataclass(frozen=True)
class BoardRow:
    """An entry as the page shows it. What does not apply is None or "".

    Attributes:
        place: the entry's folder below `entries/`.
        role: baseline, prompted, steered, control or other.
        kind: of a control: random, prior, blank, …; else "".
        vector: hash of the first vector that is steered with; for a control of the one that it replaces, by name.
        concept, method: of the first vector.
        direction: 1 where a larger score is better, -1 where a smaller one is.
        percent: whether scores are shares, which are shown in percent.
        gain, low, high: the paired gain and its 95% interval.
        kl: damage, mean KL(unsteered || steered) in nats on the study's questions.
        baseline: the baseline's place.
        outcomes: check ▸ (status, detail).
        controls: kind ▸ (system, gain) of the best control of each kind beside it.
        refused: names of failed checks that the rules refuse.
    """

    place: str
    model: str
    task: str
    system: str
    role: str
    by: str
    added: str
    about: str
    metric: str
    n: int
    score: float
    direction: int
    percent: bool
    unparsed: float | None
    command: str
    spec: str
    kind: str = ""
    vector: str = ""
    concept: str = ""
    method: str = ""
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    fixed: int | None = None
    broken: int | None = None
    kl: float | None = None
    baseline: str = ""
    hashes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, list[str]] = field(default_factory=dict)
    controls: dict[str, tuple[str, float]] = field(default_factory=dict)
    refused: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the cache."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "BoardRow":
        """Read what `to_json` gave.

        Raises:
            TypeError: for the content of another version.
        """
        if set(content) != {one.name for one in fields(cls)}:
            raise TypeError("a row of another version")
        return cls(**content)


def make_row(case: Case) -> BoardRow:
    """Compute an entry's numbers and run all checks on it that need no other entries than its baseline."""
    entry, samples, effect = case.entry, case.samples, case.effect
    record = case.record
    spec = str(record.get("spec") or "")
    recorded = (record.get("vectors") or [{}])[0]
    concept, method, vector = _vector_of(spec, recorded)
    ends = sorted(samples.direction * float(end[0]) for end in (effect.low, effect.high)) if effect else ()
    low, high = map(_finite, ends or (math.nan, math.nan))
    unparsed = float(samples.unparsed.mean())
    return BoardRow(
        place=entry.place,
        model=entry.model,
        task=entry.task,
        system=entry.system,
        role=case.role,
        kind=_kind(case),
        by=entry.by,
        added=entry.added,
        about=entry.about,
        metric=entry.metric,
        n=len(samples.keys),
        score=_finite(float(samples.scores.mean())) or 0.0,
        direction=samples.direction,
        percent=bool(samples.scores.min() >= 0 and samples.scores.max() <= 1),
        unparsed=_finite(unparsed),
        command=harness_command(samples.results)[:_MAX_TEXT],
        spec=spec[:_MAX_TEXT],
        vector=vector,
        concept=concept,
        method=method,
        gain=_finite(samples.direction * float(effect.gain[0])) if effect else None,
        low=low,
        high=high,
        p=_finite(float(effect.p[0])) if effect else None,
        fixed=int(effect.fixed[0]) if effect else None,
        broken=int(effect.broken[0]) if effect else None,
        kl=_damage(case),
        baseline=case.baseline.entry.place if case.baseline else "",
        hashes={"samples": samples.sha256, "spec": str(record.get("sha256") or ""), **_vector_hashes(record)},
        versions={str(key): str(value) for key, value in (record.get("versions") or {}).items()},
        outcomes={name: list(_outcome(name, case)) for name in checks.names() if name != CONTROLS},
    )


def judged(rows: Sequence[BoardRow], rules: Rules) -> list[BoardRow]:
    """Look at entries together: controls, baselines that are refused, and which failed checks refuse an entry."""
    applied = [_refused(row, rules) for row in rows]
    lost = {row.place for row in applied if row.role == BASELINE and row.refused}
    rows = [_without_baseline(row) if row.baseline in lost else row for row in applied]
    beside: dict[tuple[str, str], list[BoardRow]] = {}
    for row in rows:
        if row.role == "control" and not _refused(row, rules).refused:
            beside.setdefault((row.model, row.task), []).append(row)
    return [_refused(_with_controls(row, beside.get((row.model, row.task), ()), rules), rules) for row in rows]


def _outcome(name: str, case: Case) -> tuple[str, str]:
    run = checks.get(name).run
    assert run is not None
    outcome = run(case)
    return outcome.status, outcome.detail[:_MAX_TEXT]


def _refused(row: BoardRow, rules: Rules) -> BoardRow:
    outcomes = {name: found for name, found in row.outcomes.items() if rules.checks.get(name) != OFF}
    refusing = {name for name, does in rules.checks.items() if does == REFUSE}
    failed = tuple(name for name, (status, _) in outcomes.items() if status == FAILED and name in refusing)
    return replace(row, outcomes=outcomes, refused=failed)


def _without_baseline(row: BoardRow) -> BoardRow:
    outcomes = {**row.outcomes, "pairing": [FAILED, f"its baseline {row.baseline} is refused"]}
    return replace(row, gain=None, low=None, high=None, p=None, fixed=None, broken=None, outcomes=outcomes)


def _with_controls(row: BoardRow, beside: Sequence[BoardRow], rules: Rules) -> BoardRow:
    """Find the best control of each kind, of the same vector where it has one."""
    if row.role != "steered":
        return replace(row, outcomes={**row.outcomes, CONTROLS: [NOT_NEEDED, ""]})
    best: dict[str, BoardRow] = {}
    for control in beside:
        adds_nothing = control.kind in VECTOR_CONTROLS and not _intervention(control.spec).get("alpha")
        if control.gain is not None and control.vector in ("", row.vector) and not adds_nothing:
            other = best.get(control.kind)
            if other is None or other.gain is None or row.direction * (control.gain - other.gain) > 0:
                best[control.kind] = control
    controls = {kind: (control.system, float(control.gain or 0.0)) for kind, control in best.items()}
    outcome = _controls_outcome(row, controls, rules)
    return replace(row, controls=controls, outcomes={**row.outcomes, CONTROLS: [outcome.status, outcome.detail]})


def _controls_outcome(row: BoardRow, controls: dict[str, tuple[str, float]], rules: Rules) -> Outcome:
    points = 100 if row.percent else 1
    gained = ", ".join(f"{kind} {points * gain:+.1f}" for kind, (_, gain) in controls.items())
    if missing := [kind for kind in rules.controls if kind not in controls]:
        return Outcome(FAILED, f"no {' and no '.join(missing)} control beside it{f'; {gained}' if gained else ''}")
    if row.gain is not None and any(row.direction * (gain - row.gain) >= -TIE for _, gain in controls.values()):
        return Outcome(FAILED, f"a control gains as much: {gained}")
    return Outcome(PASSED, gained)


def _kind(case: Case) -> str:
    if case.role != "control":
        return ""
    if case.blank:
        return "blank"
    if case.record.get("answer_bias"):
        return "prior"
    control = _intervention(str(case.record.get("spec") or "")).get("control")
    if control:
        return str(control).partition(":")[0]
    recorded = (case.record.get("vectors") or [{}])[0]
    return _split_extracted(_vector_of("", recorded)[1])[1] or "other"


def _vector_of(spec: str, recorded: dict[str, Any]) -> tuple[str, str, str]:
    """Concept and method of the first vector, and the name of the vector that is steered with or replaced."""
    provenance = recorded.get("provenance")
    known: dict[str, Any] = provenance if isinstance(provenance, dict) else {}
    _, concept, method = f"//{recorded.get('name') or ''}".rsplit("/", 2)
    concept, method = str(known.get("concept") or concept), str(known.get("method") or method)
    vector = str(_intervention(spec).get("vector") or "").partition(",control=")[0]
    base, control = _split_extracted(method)
    if control:
        # a vector that was extracted as a control, `mean_shift-shuffled`, is beside that of the method
        vector = re.sub(rf"{re.escape(method)}(?=(\.safetensors)?$)", base, vector)
    return concept[:120], method[:120], vector[:500]


def _split_extracted(method: str) -> tuple[str, str]:
    """Method and control of `METHOD-CONTROL`; a control alone belongs to the default method."""
    if method in VECTOR_CONTROLS:
        return DEFAULT_METHOD, method
    base, _, control = method.partition("-")
    return (base, control) if control in VECTOR_CONTROLS else (method, "")


def _intervention(spec: str) -> dict[str, Any]:
    try:
        interventions = SteeringSpec.parse(spec).interventions
    except UserError:
        return {}
    return _fields_of(interventions[0]) if interventions else {}


def _fields_of(intervention: Any) -> dict[str, Any]:
    """The fields of an intervention, whose class has no `__dict__`."""
    return {one.name: getattr(intervention, one.name) for one in fields(intervention)}


def _vector_hashes(record: dict[str, Any]) -> dict[str, str]:
    return {f"vector {vector['name']}"[:500]: vector["sha256"] for vector in (record.get("vectors") or ())[:20]}


def _damage(case: Case) -> float | None:
    """The KL that the study measured for the spec's cell."""
    interventions = _intervention(str(case.record.get("spec") or ""))
    path = case.folder / STUDY / "cells.parquet"
    if not interventions or f"{STUDY}/cells.parquet" not in case.hashes:
        return None
    try:
        cells = read_cells(path)
    except UserError:
        return None
    wanted = tuple(interventions[key] for key in ("layer", "alpha", "tokens"))
    controlled, vector = interventions.get("control") or "", interventions.get("vector")
    several = len({cell["vector"].partition(",control=")[0] for cell in cells}) > 1
    for cell in cells:
        name, _, control = cell["vector"].partition(",control=")
        is_wanted = (cell["layer"], cell["alpha"], cell["tokens"]) == wanted and control == controlled
        # a study of one vector may name it otherwise than the spec does
        if is_wanted and (name == vector or not several) and "kl" in cell:
            return _finite(cell["kl"])
    return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def unreadable(error: BaseException) -> str:
    """The line for an entry that cannot be read."""
    return first_line(error)[:_MAX_TEXT]
