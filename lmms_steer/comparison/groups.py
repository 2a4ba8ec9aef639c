"""Groups and tags of the tasks that were run."""

from collections.abc import Iterable, Iterator

from lmms_steer.comparison.samples import Samples


def groups_of(runs: Iterable[Samples], known: set[str]) -> Iterator[tuple[str, str, list[str]]]:
    """(group or tag, name, its tasks) for each that any run tells of and that has two tasks or more among the known."""
    groups: dict[str, list[str]] = {}
    tags: dict[str, list[str]] = {}
    for run in runs:
        groups |= run.results.said.get("group_subtasks") or {}
        tag = run.results.said.get("configs", {}).get(run.task, {}).get("tag") or []
        for name in [tag] if isinstance(tag, str) else tag:
            tags.setdefault(name, []).append(run.task)
    seen = set()
    for scope, parts in (("group", groups), ("tag", tags)):
        for name in parts:
            tasks = sorted(_leaves(name, parts, set()) & known)
            if len(tasks) > 1 and (name, *tasks) not in seen:
                seen.add((name, *tasks))
                yield scope, name, tasks


def _leaves(name: str, parts: dict[str, list[str]], above: set[str]) -> set[str]:
    below = [part for part in parts.get(name, []) if part not in above]
    if not below:
        return {name}
    return set().union(*(_leaves(part, parts, above | {name}) for part in below))
