"""Where scenes come in from: a watched folder, a catalogue, a STAC search; each asked by the library's own command."""

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from cgm2net.errors import CatalogError
from pipelines.addresses import without_keys
from pipelines.library import CommandError, run_library
from pipelines.process import Log


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place that is polled; exactly one of the first three is given."""

    folder: Path | None = None
    """Holds SCENE_ID/{optical,sar,…}.tif, as ``python -m cgm2net catalog folder`` takes it."""
    catalog: str | None = None
    """Path or URL of a catalogue."""
    stac: str | None = None
    """Options of ``python -m cgm2net catalog stac``, as one would write them in a shell."""
    options: str = ""
    """The same of ``catalog folder``: how the files of the folder are read."""

    def __post_init__(self) -> None:
        given = [name for name in ("folder", "catalog", "stac") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"got {' and '.join(given) or 'no source'}; name one: a folder, a catalogue or a search")
        if self.options and self.folder is None:
            raise ValueError(f"options {self.options!r} are those of a folder, and none is given")

    def __str__(self) -> str:
        """Name the source in tables and events, without what a URL holds of keys."""
        if self.catalog and "://" in self.catalog:
            return without_keys(self.catalog)
        return f"folder {self.folder}" if self.folder else self.catalog or f"stac {self.stac}"

    def ask(self, folder: Path, *, root: Path, log: Log) -> str:
        """Let the source list its scenes.

        Args:
            folder: new folder for the list.
            root: the project; a relative path of the source is taken from there.
            log: receives what the source's command says.

        Returns:
            The list: path or URL of a catalogue, of which there may be none where nothing is usable.

        Raises:
            CatalogError: if the watched folder or the catalogue is not there.
            CommandError: if the source cannot be asked.
        """
        if self.catalog:
            return self.catalog if "://" in self.catalog else str(_existing(root / self.catalog))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        listed = folder / "catalog.csv"
        if self.folder:
            watched = root / self.folder
            if not watched.is_dir():
                raise CatalogError(f"{watched}: the watched folder is not there; mount or make it")
            if any(file.is_file() and not file.name.startswith(".") for file in watched.glob("*/*")):
                _list("folder", str(watched), *shlex.split(self.options), listed=listed, root=root, log=log)
        else:
            _show_known(folder, root=root)
            _list("stac", *shlex.split(self.stac or ""), "--append", listed=listed, root=root, log=log)
        return str(listed)


def _existing(catalog: Path) -> Path:
    if not catalog.is_file():
        raise CatalogError(f"{catalog}: no catalogue there; correct the path, or write it")
    return catalog


def _list(*arguments: str, listed: Path, root: Path, log: Log) -> None:
    try:
        run_library("catalog", *arguments, "--out", str(listed), root=root, log=log)
    except CommandError:
        if not listed.with_suffix(".refused.csv").is_file():
            raise
        log("the source has no usable scene; what it refused is kept")


def _show_known(folder: Path, *, root: Path) -> None:
    """Let a search see the catalogue: it passes over what is there, and takes SAR of the orbits that are there.

    Its documents are written to where the catalogue's stand at once, so that a scene's URIs stay what they are when it
    is accepted; a document that no row names does no harm, and tells of what a refused scene was made.
    """
    (root / "data" / "stac").mkdir(parents=True, exist_ok=True)
    (folder / "stac").symlink_to(root / "data" / "stac")
    if (root / "data" / "catalog.csv").is_file():
        shutil.copyfile(root / "data" / "catalog.csv", folder / "catalog.csv")
