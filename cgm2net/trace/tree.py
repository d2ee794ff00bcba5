"""A trace as a tree to read."""

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.tree import Tree

from cgm2net.lineage import UNKNOWN
from cgm2net.promotion import Standing
from cgm2net.trace.records import Commit, DataVersion, Lineage, Map, ModelVersion, Output, Run, Scene, Trace

_SHOWN_MAX = 10
"""Lines of one kind; `--json` has all."""


def as_tree(trace: Trace) -> Tree:
    """Return everything that was found, data first and maps last, then the links that could not be followed."""
    tree = Tree(escape(f"{trace.kind} {trace.what}"), highlight=True)
    known = {commit.sha: commit for commit in trace.commits}
    for data in trace.data:
        _add_data(tree, data)
    for output in trace.outputs:
        _add_output(tree, output)
    if trace.kind == "commit":
        _add(tree, "commit", (_commit(one) for one in trace.commits))
    for run in trace.runs:
        _add_run(tree, run, known)
    for version in trace.versions:
        _add_version(tree, version, known)
    _add(tree, f"maps: {len(trace.maps)}", [_map(one) for one in trace.maps] or ["none in the folders searched"])
    _add(tree, "could not be followed", [f"{gap.link}: {gap.why}" for gap in trace.gaps])
    return tree


def _add(tree: Tree, title: str, lines: Iterable[str]) -> None:
    """Add a branch of lines; nothing where there are none."""
    listed = list(lines)
    if not listed:
        return
    branch = tree.add(escape(title))
    for line in listed[:_SHOWN_MAX]:
        branch.add(escape(line))
    if len(listed) > _SHOWN_MAX:
        branch.add(f"… and {len(listed) - _SHOWN_MAX} more; --json has all")


def _add_data(tree: Tree, data: DataVersion) -> None:
    here = "; data.dvc here pins it" if data.pinned_here else ""
    _add(
        tree, f"data version {data.md5}{here}", [f"pinned by {_commit(one)}" for one in data.pinned_by] or ["no commit"]
    )


def _add_output(tree: Tree, output: Output) -> None:
    here = "; dvc.lock here names it" if output.here else ""
    _add(tree, f"output {output.path} {output.md5} of stage {output.stage}{here}",
         [f"in dvc.lock of {_commit(one)}" for one in output.commits] or ["in no commit"])  # fmt: skip


def _add_run(tree: Tree, run: Run, known: dict[str, Commit]) -> None:
    branch = tree.add(escape(f"run {run.run_id} {run.name}, experiment {run.experiment}, {run.status}, {run.started}"))
    for line in _lineage(run.made_of, known):
        branch.add(escape(line))
    if run.params:
        branch.add(escape("params: " + ", ".join(f"{name} {text}" for name, text in run.params.items())))
    if run.parent:
        branch.add(escape(f"parent run {run.parent}"))
    if run.stands_for:
        branch.add(escape(f"stands for run {run.stands_for} of another store"))
    for name, text in run.flow.items():
        branch.add(escape(f"{name} {text}"))
    if run.scenes:
        _add(branch, _counted(run.scenes) + f", from {run.scenes_from}", _refused(run.scenes))


def _counted(scenes: Sequence[Scene]) -> str:
    return f"scenes: {sum(scene.accepted for scene in scenes)} of {len(scenes)} accepted"


def _refused(scenes: Sequence[Scene]) -> list[str]:
    """Return a line a refused scene; one that says so where there are none."""
    refused = [f"{one.scene_id} refused: {one.reason}" for one in scenes if not one.accepted]
    return refused or ["none refused"]


def _add_version(tree: Tree, version: ModelVersion, known: dict[str, Commit]) -> None:
    branch = tree.add(escape(f"version {version.number} of {version.name}, model hash {version.model_sha256[:12]}"))
    branch.add(escape("registered at " + _lineage(version.made_of, known)[0]))
    for name, text in version.flow.items():
        branch.add(escape(f"{name} {text}"))
    for time in version.champion or ():
        branch.add(escape(_standing(time)))
    if not version.champion:
        branch.add("never the champion, as far as the record tells")


def _standing(time: Standing) -> str:
    until = "now" if time.until is None else time.until[:19]
    return f"champion from {time.since[:19]} to {until}: {time.who}, {time.why}"


def _lineage(made_of: Lineage, known: dict[str, Commit]) -> list[str]:
    commit = known.get(made_of.git_commit)
    named = _commit(commit) if commit else made_of.git_commit
    trees = {"true": "changed work tree", "false": "clean work tree"}
    tree = trees.get(made_of.git_dirty, "work tree not recorded")
    return [
        f"commit {named}, {tree}",
        f"data version {made_of.data_version}, data hash {made_of.data_hash if made_of.data_hash else UNKNOWN}",
    ]


def _map(one: Map) -> str:
    model = f"version {one.version} of {one.model}" if one.version else f"folder {one.model}"
    return f"{one.folder}: scene {one.scene_id}, by {model}"


def _commit(commit: Commit) -> str:
    return f"{commit.sha[:12]} {commit.when[:10]} {commit.subject}"
