"""One JSON document a scene says which STAC items its files are made of; the catalogue's URIs point into it.

``stac/SCENE_ID.json#stac=ROLE&document=HASH``: the hash pins the document, so that whoever edits it also changes the
catalogue, which is what the stage `download` depends on.
"""

import json
from pathlib import Path

from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import BaseModel, ConfigDict, ValidationError

from cgm2net.errors import CatalogError, ChecksumError
from cgm2net.files import sha256_file, sha256_json, write_json

_FRAGMENT = "#stac="
_HASH_LENGTH = 16


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BandSource(_Part):
    """One band of an item."""

    name: str
    "Band name of :mod:`cgm2net.sensors`, or ``SCL``."
    href: str
    "Address as the item gives it, unsigned."
    offset_dn: float = 0.0
    "Added to the stored DN."
    linear: bool = False
    "SAR in linear power."


class ItemSource(_Part):
    """What a document keeps of a STAC item."""

    id: str
    collection: str
    link: str = ""
    "Where the item itself is."
    acquired: str
    baseline: str = ""
    "Processing baseline of Sentinel-2."
    orbit: str = ""
    "Relative orbit, where the item says."
    cloud_cover: float | None = None
    "Share of the whole item, as the item says."
    footprint: dict[str, object]
    "GeoJSON geometry, degrees."
    bands: tuple[BandSource, ...]
    "In the order of the file to be made."


class RoleSource(_Part):
    """What one file of a scene is made of."""

    api: str
    sign: str
    "Signing hook; see :mod:`cgm2net.data.sources.stac_sign`."
    cloud_share: float | None = None
    "Of the area that is measured; None for SAR, and where the items have no scene classification."
    items: tuple[ItemSource, ...]
    "Of one overflight; where they overlap, the first that measured a pixel gives it."

    @property
    def band_names(self) -> tuple[str, ...]:
        """Return the names of the bands that every item has, in the order of the file."""
        return tuple(band.name for band in self.items[0].bands)


class GridSource(_Part):
    """The pixel grid of a scene."""

    crs: str
    shape: tuple[int, int]
    "Height and width [px]."
    transform: tuple[float, float, float, float, float, float]

    @property
    def geobox(self) -> GeoBox:
        """Return it as a grid."""
        return GeoBox(self.shape, Affine(*self.transform), self.crs)


class SceneSource(_Part):
    """A scene."""

    scene_id: str
    region: str
    grid: GridSource
    roles: dict[str, RoleSource]
    "By column of the catalogue."


def grid_source(grid: GeoBox) -> GridSource:
    """Return a grid as documents hold it."""
    height, width = grid.shape
    return GridSource(crs=str(grid.crs), shape=(height, width), transform=tuple(grid.transform)[:6])


def write_document(scene: SceneSource, folder: Path) -> dict[str, str]:
    """Write a scene's document; return the URIs of its roles, relative to the folder's parent."""
    path = folder / f"{scene.scene_id}.json"
    write_json(path, scene.model_dump(mode="json"))
    pin = sha256_file(path)[:_HASH_LENGTH]
    return {role: f"{folder.name}/{path.name}{_FRAGMENT}{role}&document={pin}" for role in scene.roles}


def read_document(path: Path) -> SceneSource:
    """Read a document.

    Raises:
        FileNotFoundError: if it is not there.
        CatalogError: if it is not such a document.
    """
    try:
        return SceneSource.model_validate(json.loads(path.read_text()))
    except (ValueError, ValidationError) as error:
        raise CatalogError(f"{path}: not a scene's STAC document: {error}; run `catalog stac` again") from error


def is_stac(uri: str) -> bool:
    """Whether a URI points into a document."""
    return _FRAGMENT in uri


def identity(uri: str) -> str:
    """Return what tells one version of a role's content from another.

    Raises:
        FileNotFoundError: if the document is not there.
        CatalogError: if it is no such document, or lacks the role.
    """
    grid, source = _parts(uri)
    return sha256_json([_role(uri), grid.model_dump(mode="json"), source.model_dump(mode="json")])


def open_uri(uri: str) -> tuple[str, GeoBox, RoleSource]:
    """Return the role that a URI names, its grid and what it is made of.

    Raises:
        FileNotFoundError: if the document is not there.
        CatalogError: if it is no such document, or lacks the role.
        ChecksumError: if it is not the one that the URI pins.
    """
    grid, source = _parts(uri)
    pin = uri.partition("&document=")[2]
    got = sha256_file(_path(uri))
    if pin and not got.startswith(pin):
        raise ChecksumError(
            f"{_path(uri)}: SHA-256 is {got[:_HASH_LENGTH]}, the catalogue says {pin}; take back what was changed, or"
            " run `catalog stac` again"
        )
    return _role(uri), grid.geobox, source


def _parts(uri: str) -> tuple[GridSource, RoleSource]:
    scene, role = read_document(_path(uri)), _role(uri)
    if role not in scene.roles:
        raise CatalogError(f"{uri}: the document has {', '.join(scene.roles)}, not {role}")
    return scene.grid, scene.roles[role]


def _path(uri: str) -> Path:
    return Path(uri.partition(_FRAGMENT)[0])


def _role(uri: str) -> str:
    return uri.partition(_FRAGMENT)[2].partition("&")[0]
