"""The tasks about the tiny world's videos and sounds; answers are read as in `tiny_world`."""

from typing import Any

from lmms_steer.tasks.tiny_world.utils import doc_to_target, process_results

from lmms_steer.data.documents import doc_to_text
from lmms_steer.tiny_world.media_questions import shown_by
from lmms_steer.tiny_world.moving import Moving
from lmms_steer.tiny_world.sounds import RATE


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """The frames of a video, or the samples of a sound."""
    shown = shown_by(doc)
    return [shown.images()] if isinstance(shown, Moving) else [{"array": shown.render(), "sampling_rate": RATE}]
