"""What the command ``trace`` does with its options."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.tree import Tree

from cgm2net.trace.ends import begin
from cgm2net.trace.findings import Findings
from cgm2net.trace.records import Trace
from cgm2net.trace.tree import as_tree


def trace(what: str, *, root: Path = Path(), maps: Sequence[Path] = ()) -> Trace:
    """Find everything that a thing was made of, and everything that was made of it.

    Args:
        what: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, a run id, a flow run's id, a product of ``predict`` or
            its folder, a DVC hash of ``data/`` or of a stage's output, a data hash, a model's hash, the hash of a
            ``dvc.lock``, or a git commit.
        root: the project's root.
        maps: folders that are searched for products.

    Returns:
        What was found; a link that cannot be followed is among ``gaps``, with the reason.

    Raises:
        DataError: if nothing is known of it.
    """
    found = Findings(root)
    kind = begin(found, what)
    return found.finish(what, kind, maps=maps)


def shown(trace: Trace, *, as_json: bool) -> str | Tree:
    """Return a trace as JSON or as a tree."""
    return json.dumps(asdict(trace), indent=2, default=dict) if as_json else as_tree(trace)
