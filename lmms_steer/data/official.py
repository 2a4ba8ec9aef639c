"""How many questions the official releases have, so that a part of one is not taken for it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from lmms_steer.data.source import read_manifest

BLINK = (
    *("Art_Style", "Counting", "Forensic_Detection", "Functional_Correspondence", "IQ_Test", "Jigsaw"),
    *("Multi-view_Reasoning", "Object_Localization", "Relative_Depth", "Relative_Reflectance"),
    *("Semantic_Correspondence", "Spatial_Relation", "Visual_Correspondence", "Visual_Similarity"),
)
# Rows by split: of CV-Bench's and BLINK's cards, What'sUp's README, CLEVR's and Super-CLEVR's sites.
OFFICIAL_ROWS: dict[str, dict[str, int | None]] = {
    "cvbench": {"test": 2638},
    "whatsup_a": {"Controlled_Images_A": 412},
    "whatsup_b": {"Controlled_Images_B": 408},
    "clevr_count": {"train": 500, "test": 200},
    "clevr": {"val": 149991},
    "superclevr": {"test": None},
    **{f"blink/{config}": {"val": None} for config in BLINK},
    "blink/Counting": {"val": 120},
    "blink/Spatial_Relation": {"val": 143},
    "blink/Relative_Depth": {"val": 124},
    "blink/Object_Localization": {"val": 122},
}


def partial_copy_warning(folder: Path, splits: Mapping[str, int | None]) -> Iterator[str]:
    """A line where a copy has fewer or more questions than the release.

    Raises:
        UserError: when its manifest is damaged.
    """
    rows = read_manifest(folder)["rows"]
    if any(expected not in (None, rows.get(split)) for split, expected in splits.items()):
        yield "WARNING: not the whole release: a score on it is no score on the benchmark"
