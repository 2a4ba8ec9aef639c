"""Neuronpedia's explanation of a feature, where the SAE is there and the site can be reached."""

import json
import urllib.request
from dataclasses import dataclass

_URL = "https://www.neuronpedia.org/api/feature/{sae}/{feature}"
_SECONDS = 10


@dataclass(slots=True)
class Explanations:
    """Asks for explanations until the site fails once; then there are none for the rest of the command."""

    reached: bool = True

    def of(self, neuronpedia: str | None, feature: int) -> str | None:
        """The explanation, or None. `neuronpedia`: the SAE's id there, `gemma-2-2b/12-gemmascope-res-16k`."""
        if neuronpedia is None or not self.reached:
            return None
        try:
            with urllib.request.urlopen(_URL.format(sae=neuronpedia, feature=feature), timeout=_SECONDS) as reply:
                found = json.load(reply).get("explanations") or []
            return str(found[0]["description"])[:500] if found else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.reached = False
            return None
