"""Instructions in the fragment of a URI: written, read, and refused where they mean nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgm2net.data.reading import Reading, join, split
from cgm2net.errors import CatalogError

CODES = st.integers(0, 255)
READINGS = st.builds(
    Reading,
    bands=st.lists(st.text(min_size=1, max_size=6), max_size=4, unique=True).map(tuple),
    scale=st.floats(allow_nan=False, allow_infinity=False).filter(lambda value: value != 0),
    offset=st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0),
    linear=st.booleans(),
    codes=st.dictionaries(CODES, CODES, max_size=5).map(lambda table: tuple(table.items())),
    grid=st.sampled_from(["", "optical"]),
    crs=st.sampled_from(["", "EPSG:32633", "+proj=utm +zone=33 +datum=WGS84", 'PROJCS["a&b#c=d"]']),
)


@given(reading=READINGS, uri=st.sampled_from(["/a/b.tif", "https://h/a.tif?x=1&y=2", "a #1%.tif", "s3://b/k#v.tif"]))
def test_what_is_joined_is_split_again(reading: Reading, uri: str) -> None:
    assert split(join(uri, reading)) == (uri, reading)


def test_instructions_as_people_write_them() -> None:
    assert split("x/s2.tif#bands=B01,B02&offset=-1000") == ("x/s2.tif", Reading(bands=("B01", "B02"), offset=-1000))
    assert split("l.tif#codes=10:0,20:1,70:255")[1].codes == ((10, 0), (20, 1), (70, 255))
    assert split("m.npy#grid=optical")[1] == Reading(grid="optical")
    assert split("s1.tif#bands=VV,VH&linear=1")[1] == Reading(bands=("VV", "VH"), linear=True)
    assert split("s1.tif#linear=0&scale=1e4&crs=EPSG:32633")[1] == Reading(scale=10_000, crs="EPSG:32633")
    assert join("/l.tif", Reading(codes=((10, 0), (20, 1)), grid="optical")) == "/l.tif#codes=10:0,20:1&grid=optical"
    assert join("/s2.tif", Reading(bands=("B01",), offset=-1000.0)) == "/s2.tif#bands=B01&offset=-1000"


@pytest.mark.parametrize("uri", ["", "/a.tif", "/a #1%.tif", "https://h/a.tif#one", "stac/a.json#stac=optical"])
def test_other_fragments_are_left_alone(uri: str) -> None:
    assert split(uri) == (uri, Reading())
    assert join(uri, Reading()) == uri


@pytest.mark.parametrize(
    ("fragment", "said"),
    [
        ("band=B01", r"unknown instruction 'band' after '#', known are bands, scale, offset, linear, codes, grid, crs"),
        ("bands=B01&stac=optical", "unknown instruction 'stac'"),
        ("offset=1&offset=2", "instruction offset stands there twice"),
        ("bands=B01,B01", "bands=B01,B01 is not understood: names must be"),
        ("bands=B01,", "names must be"),
        ("scale=0", "wanted a number that is not 0"),
        ("scale=ten", "scale=ten is not understood"),
        ("offset=nan", "wanted a finite number"),
        ("linear=yes", "wanted 0 or 1"),
        ("codes=10-0", "codes=10-0 is not understood"),
        ("codes=10:300", "codes 0 to 255"),
        ("codes=10:1,10:2", "no old one twice"),
        ("grid=sar", "wanted `optical`"),
    ],
)
def test_what_is_not_understood_is_refused(fragment: str, said: str) -> None:
    with pytest.raises(CatalogError, match=said):
        split(f"/a.tif#{fragment}")


@pytest.mark.parametrize(
    ("fragment", "role"),
    [("codes=1:0", "optical"), ("linear=1", "cloud"), ("grid=optical", "optical"), ("scale=2", "label")],
)
def test_an_instruction_for_another_role_is_refused(fragment: str, role: str) -> None:
    with pytest.raises(CatalogError, match=f"is no instruction for {role}; it is one for"):
        split(f"/a.tif#{fragment}")[1].require_role(role, "/a.tif")
