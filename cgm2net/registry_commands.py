"""The commands that operate the registry: the champion's moves, and what leads from one thing to another."""

from pathlib import Path

import click
from rich.console import Console, RenderableType

from cgm2net.data.sources.commands import guarded
from cgm2net.settings import read_settings

_PARAMS = Path("params.yaml")
_named = click.option("--name", help="Of the registered model; register.model_name of params.yaml by default.")
_who = click.option("--who", help="Recorded as the one who decided; the user's name by default.")
_why = click.option("--why", required=True, help="The reason, for the record.")


@click.command()
@click.argument("version", type=int)
@_why
@_who
@_named
@click.option("--force", is_flag=True, help="Also if the two were never judged on the same test.")
def promote(version: int, why: str, who: str | None, name: str | None, *, force: bool) -> None:
    """Make VERSION the champion by hand."""
    from cgm2net import promotion

    guarded(
        lambda: promotion.promote(
            _model_name(name), version, why=why, who=promotion.who_moves(who), force=force
        )
    )  # fmt: skip


@click.command()
@_why
@_who
@_named
def rollback(why: str, who: str | None, name: str | None) -> None:
    """Move the champion back to where it stood before its last move."""
    from cgm2net import promotion

    guarded(lambda: promotion.rollback(_model_name(name), why=why, who=promotion.who_moves(who)))


@click.command()
@_named
@click.option("--json", "as_json", is_flag=True, help="Everything that was recorded.")
@click.option("--out", type=click.Path(path_type=Path), help="Write everything as JSON into this file instead.")
def moves(name: str | None, out: Path | None, *, as_json: bool) -> None:
    """Show every move of the champion: when, from, to, who, why."""
    from cgm2net import promotion
    from cgm2net.files import write_aside

    def show() -> str | None:
        if out is None:
            return _shown((promotion.moves_json if as_json else promotion.moves_table)(_model_name(name)))
        with write_aside(out) as aside:
            aside.write_text(promotion.moves_json(_model_name(name)) + "\n")
        return str(out)

    guarded(show)


@click.command()
@click.argument("uri", default="models:/cgm2net@champion")
def check(uri: str) -> None:
    """Fetch the model URI, hold its files to their hashes, and load it as predict does.

    URI is models:/NAME@ALIAS, models:/NAME/VERSION or a folder; the champion by default.
    """
    from cgm2net.predict.model import load_model

    def load() -> str:
        model = load_model(uri)
        return f"{uri}: {model.name} {model.version or '(a folder)'}, model hash {model.sha256}, can be loaded"

    guarded(load)


@click.command()
@click.option("--flow-run", required=True, metavar="ID", help="The flow run that ended just now.")
@click.option("--url", default="", help="Its page, without credentials.")
def link(flow_run: str, url: str) -> None:
    """Tag run and model version of artifacts/ with the final dvc.lock and the flow run; once is enough."""
    from cgm2net.trace.links import link as command

    guarded(lambda: command(Path(), flow_run_id=flow_run, url=url))


@click.command()
@click.argument("what")
@click.option("--maps", type=click.Path(path_type=Path), multiple=True, default=[Path("maps")], show_default=True,
              help="Folders that are searched for products of `predict`.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Everything, nothing shortened.")
def trace(what: str, maps: tuple[Path, ...], *, as_json: bool) -> None:
    """Find what WHAT was made of, and what was made of it.

    WHAT is models:/NAME/VERSION, models:/NAME@ALIAS, a run id, a product of predict (file or folder), a DVC hash of
    data/ or of a stage's output, a data hash, a model's hash, the hash of a dvc.lock, a flow run's id, or a git commit.
    """
    from cgm2net.trace.command import shown
    from cgm2net.trace.command import trace as command

    guarded(lambda: _shown(shown(command(what, maps=maps), as_json=as_json)))


@click.command()
@click.argument("version", type=int)
@_named
@click.option("--keep", type=click.Path(path_type=Path), help="New folder for what is made; temporary by default.")
def reproduce(version: int, name: str | None, keep: Path | None) -> None:
    """Make VERSION again from its commit and data; end with 1 unless its metrics come out as recorded."""
    from cgm2net.reproduce import Reproduction
    from cgm2net.reproduce import reproduce as command

    made: list[Reproduction] = []
    guarded(lambda: made.append(command(_model_name(name), version, root=Path.cwd(), keep=keep)))
    _shown(made[0].shown())
    if not made[0].holds:
        click.get_current_context().exit(1)


def _model_name(name: str | None) -> str:
    return name or read_settings(_PARAMS).register_.model_name


def _shown(found: str | RenderableType) -> str | None:
    """Print a table or tree; return text as it is."""
    if isinstance(found, str):
        return found
    Console().print(found)
    return None
