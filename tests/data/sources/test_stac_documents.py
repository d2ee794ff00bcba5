"""Documents and the URIs that point into them."""

from pathlib import Path

import pytest
from stac_world import AREA

from cgm2net.catalog import resolve_uri
from cgm2net.data.sources.stac_documents import (
    BandSource,
    ItemSource,
    RoleSource,
    SceneSource,
    grid_source,
    identity,
    is_stac,
    open_uri,
    write_document,
)
from cgm2net.errors import CatalogError, ChecksumError


def role(offset_dn: float = 0.0) -> RoleSource:
    item = ItemSource(
        id="a", collection="c", acquired="2024-06-01T10:30:00Z", footprint={"type": "Polygon", "coordinates": []},
        bands=(BandSource(name="B08", href="b08.tif", offset_dn=offset_dn), BandSource(name="B02", href="b02.tif")),
    )  # fmt: skip
    return RoleSource(api="http://api", sign="none", items=(item,))


def written(folder: Path, *, sar: float = 0.0, optical: float = 0.0) -> dict[str, str]:
    """Write a document into a folder; return the URIs as `download` gets them."""
    roles = {"optical": role(optical), "sar": role(sar)}
    scene = SceneSource(scene_id="s", region="r", grid=grid_source(AREA), roles=roles)
    return {name: resolve_uri(uri, folder) for name, uri in write_document(scene, folder / "stac").items()}


def test_a_uri_leads_to_its_role(tmp_path):
    uri = written(tmp_path)["sar"]
    assert is_stac(uri)
    assert uri.startswith(f"{tmp_path}/stac/s.json#stac=sar&document=")
    assert open_uri(uri) == ("sar", AREA, role())
    assert open_uri(uri.partition("&")[0])[0] == "sar"  # not pinned
    assert role().band_names == ("B08", "B02")


@pytest.mark.parametrize("uri", ["a.tif", "https://a/b.tif#bands=B02", "synthetic:optical?region=1", "a#stac.tif"])
def test_other_uris_are_left_alone(uri):
    assert not is_stac(uri)


def test_a_roles_identity_is_what_it_is_made_of(tmp_path):
    before, uris = identity(written(tmp_path)["optical"]), written(tmp_path, sar=-1000)
    assert identity(uris["optical"]) == before  # the other role changed
    assert identity(written(tmp_path, optical=-1000)["optical"]) != before


def test_equal_scenes_give_equal_bytes(tmp_path):
    written(tmp_path / "a")
    written(tmp_path / "b")
    assert (tmp_path / "a/stac/s.json").read_bytes() == (tmp_path / "b/stac/s.json").read_bytes()


def test_another_document_than_the_one_that_is_pinned(tmp_path):
    uri = written(tmp_path)["optical"]
    written(tmp_path, sar=-1000)
    with pytest.raises(ChecksumError, match=r"s\.json: SHA-256 is .*, the catalogue says"):
        open_uri(uri)


def test_what_is_no_document(tmp_path):
    uri = written(tmp_path)["sar"]
    with pytest.raises(CatalogError, match="the document has optical, sar, not cloud"):
        open_uri(uri.replace("stac=sar", "stac=cloud"))
    path = tmp_path / "stac/s.json"
    path.write_text(path.read_text().replace('"region"', '"place"'))
    with pytest.raises(CatalogError, match="not a scene's STAC document"):
        identity(uri)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        identity(uri)
