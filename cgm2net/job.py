"""One scene's work, and what a stage finds out about a scene."""

from dataclasses import dataclass
from pathlib import Path

Facts = dict[str, object]
"""What a stage finds out about one scene; JSON can hold it."""


@dataclass(frozen=True, kw_only=True)
class SceneJob:
    """One scene's work: what it is, what it reads, where its files go."""

    scene_id: str
    "Names the folder below the stage's output."
    parameters: dict[str, object]
    "Everything but file contents that the result depends on; JSON can hold it."
    inputs: dict[str, Path]
    "Role -> local file; their bytes are part of the cache key."
