"""A results file: what a harness says of a whole run."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from lmms_steer.comparison.files import Evaluation
from lmms_steer.errors import UserError


@dataclass(frozen=True)
class Results:
    """A results file, and the hash of what it says."""

    evaluation: Evaluation
    said: dict[str, Any]
    sha256: str

    @property
    def seeds(self) -> dict[str, Any]:
        """The harness's four seeds."""
        config = self.said.get("config", {})
        return {key: config.get(key) for key in ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")}

    @property
    def steering(self) -> dict[str, Any]:
        """What our models record; empty for others."""
        # lm-eval keeps what a model says of itself in its config
        return self.said.get("steering") or (self.said.get("config") or {}).get("steering") or {}

    @property
    def model(self) -> str:
        """Its name without owner or folder; empty where nothing says it."""
        # lmms-eval's own name of a steered model holds its steering
        name = str(self.steering.get("model") or self.said.get("model_name") or "")
        return name.rstrip("/").rpartition("/")[2]

    @property
    def seconds(self) -> float:
        """How long the harness ran, all tasks together; NaN where it does not say."""
        return float(self.said.get("total_evaluation_time_seconds") or "nan")


def read_results(evaluation: Evaluation) -> Results:
    """Read a results file.

    Raises:
        UserError: for one that is cut off.
    """
    raw = evaluation.results.read_bytes()
    try:
        said = json.loads(raw)
        if not isinstance(said.get("results"), dict):
            raise ValueError("it holds no results")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{str(evaluation.results)!r} is cut off or no results file: {error}") from error
    return Results(evaluation, said, hashlib.sha256(raw).hexdigest())
