"""How a file is read that does not follow the conventions: instructions in the fragment of its URI in the catalogue.

``…/s2.tif#bands=B01,B02&offset=-1000`` names the bands in the order of the file and takes 1000 from every DN;
``…/landcover.tif#codes=10:0,20:1`` maps codes, all others become 255; ``…/mask.npy#grid=optical`` lays an array on the
optical image. A fragment without ``=`` is part of the file's name; one that begins with ``stac=`` is left to the STAC
source.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, Literal
from urllib.parse import quote, unquote

from cgm2net.errors import CatalogError

STAC_FRAGMENT = "stac="

_FITTING = {
    "bands": ("optical", "sar", "reference"), "scale": ("optical", "sar", "reference", "cloud"),
    "offset": ("optical", "sar", "reference", "cloud"), "linear": ("sar",), "codes": ("label", "cloud"),
    "grid": ("sar", "reference", "label", "cloud"),
    "crs": ("optical", "sar", "reference", "label", "cloud"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Instructions for one file; none of them is the default."""

    bands: tuple[str, ...] = ()
    "Names of all bands, in the order of the file."
    scale: float = 1.0
    "Stored value x scale + offset is DN, dB, linear power or cloud probability."
    offset: float = 0.0
    linear: bool = False
    "SAR in linear power, to be converted to dB."
    codes: tuple[tuple[int, int], ...] = ()
    "Stored code and the code that it becomes; every other one becomes 255."
    grid: Literal["", "optical"] = ""
    "`optical`: the file covers what the scene's optical file covers, whatever it says of itself."
    crs: str = ""
    "Coordinate reference system of a file that names none, or a wrong one."

    @property
    def given(self) -> tuple[str, ...]:
        """Return the keys that say something."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) != field.default)

    def require_role(self, role: str, uri: str) -> None:
        """Refuse instructions that mean nothing for a file of this role.

        Raises:
            CatalogError: names them, and the roles they are for.
        """
        for key in self.given:
            if role not in _FITTING[key]:
                raise CatalogError(
                    f"{uri}: {key} is no instruction for {role}; it is one for {', '.join(_FITTING[key])}"
                )


def split(uri: str) -> tuple[str, Reading]:
    """Return a URI without its instructions, and these.

    Raises:
        CatalogError: if a key is unknown or stands there twice, or a value is not of its kind.
    """
    plain, _, fragment = uri.rpartition("#")
    if not plain or "=" not in fragment or fragment.startswith(STAC_FRAGMENT):
        return uri, Reading()
    values: dict[str, object] = {}
    for part in fragment.split("&"):
        key, _, text = part.partition("=")
        if key not in _PARSE:
            raise CatalogError(
                f"{uri}: unknown instruction {key!r} after '#', known are {', '.join(_PARSE)}; if '#' is part of the"
                " file's name, rename the file"
            )
        if key in values:
            raise CatalogError(f"{uri}: instruction {key} stands there twice")
        try:
            values[key] = _PARSE[key](text)
        except ValueError as error:
            raise CatalogError(f"{uri}: instruction {key}={text} is not understood: {error}") from error
    return plain, Reading(**values)  # type: ignore[arg-type]  # each parser gives what its field wants


def join(uri: str, reading: Reading) -> str:
    """Return a URI with instructions; :func:`split` undoes it."""
    fragment = "&".join(f"{key}={_TEXT.get(key, _plain)(getattr(reading, key))}" for key in reading.given)
    return f"{uri}#{fragment}" if fragment else uri


def _names(text: str) -> tuple[str, ...]:
    names = tuple(unquote(name) for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise ValueError("names must be one each, none empty, none twice")
    return names


def _number(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("wanted a finite number")
    return number


def _factor(text: str) -> float:
    factor = _number(text)
    if factor == 0:
        raise ValueError("wanted a number that is not 0")
    return factor


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("wanted 0 or 1")
    return text == "1"


def _mapping(text: str) -> tuple[tuple[int, int], ...]:
    pairs = tuple((int(old), int(new)) for old, _, new in (pair.partition(":") for pair in text.split(",")))
    if len({old for old, _ in pairs}) < len(pairs) or not all(0 <= code <= 255 for pair in pairs for code in pair):
        raise ValueError("wanted OLD:NEW,OLD:NEW,… with codes 0 to 255, no old one twice")
    return pairs


def _grid(text: str) -> str:
    if text != "optical":
        raise ValueError("wanted `optical`")
    return text


_PARSE: dict[str, Callable[[str], object]] = {
    "bands": _names, "scale": _factor, "offset": _number, "linear": _switch, "codes": _mapping, "grid": _grid,
    "crs": unquote,
}  # fmt: skip


def _plain(value: object) -> str:
    return quote(f"{value:.17g}" if isinstance(value, float) else str(value), safe=":+-. ()")


_TEXT: dict[str, Callable[[Any], str]] = {
    "bands": lambda names: ",".join(quote(name, safe="") for name in names),
    "linear": lambda linear: str(int(linear)),
    "codes": lambda pairs: ",".join(f"{old}:{new}" for old, new in pairs),
}
