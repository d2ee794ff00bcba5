"""What an incoming scene must be: one table of rules, each a Great Expectations expectation and the reason it gives.

A rule judges one column of the scenes' facts (:func:`cgm2net.data.facts.scene_facts`); an unknown fact (None) passes.
Rules stand in the order in which their reasons are read: what explains most comes first.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cgm2net.sensors import SENTINEL2
from cgm2net.settings import ValidateSettings

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

SUITE = "scenes"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One expectation and its words; ``{…}`` in them are facts of the scene, ``s`` (settings) or wanted band names."""

    column: str
    "Fact that is judged; each is judged once, so it names the rule too."
    kind: str
    "Class of ``great_expectations.expectations``."
    limits: Callable[[ValidateSettings], dict[str, Any]]
    "What the class is given beside the column."
    wanted: str
    "What holds of a good scene, and what to do where it does not; stands in the data docs. Knows settings only."
    reason: str
    "What a person reads about a scene that fails: got, wanted, what to do. Knows the facts as well."


def _nothing(_settings: ValidateSettings) -> dict[str, Any]:
    return {"value_set": [""]}


def _names(bands: Sequence[str]) -> dict[str, Any]:
    return {"regex": "".join(rf"(?=.*\b{re.escape(name)}\b)" for name in bands)}


@dataclass(frozen=True, kw_only=True)
class SourceNeeds:
    """What every scene of a source has, so that one without it was brought in wrongly."""

    columns: tuple[str, ...] = ()
    "Of the catalogue; not empty."
    optical_bands: tuple[str, ...] = ()
    "Among others."


_L1C = tuple(band.name for band in SENTINEL2)

SOURCES = MappingProxyType({
    "m3m_cr": SourceNeeds(columns=("reference", "label", "cloud")),
    "luojiaset_osfcr": SourceNeeds(columns=("reference", "label"), optical_bands=_L1C),
    "sen12ms_cr": SourceNeeds(columns=("reference",), optical_bands=_L1C),
    "stac": SourceNeeds(columns=("acquired_optical", "acquired_sar")),
})  # fmt: skip
"""By the catalogue's column ``source``, up to its first ``:`` or blank. LuojiaSET-OSFCR lacks the masks of one bin, and
SEN12MS-CR has neither masks nor labels."""


def source_lacks(row: Mapping[str, object], optical_bands: object) -> str:
    """Return which columns and bands a scene lacks that its source always has; empty where it has all.

    Args:
        row: of the scene table.
        optical_bands: the bands found, as text; None where the file could not be read.
    """
    needs = SOURCES.get(re.split(r"[:\s]", str(row["source"]))[0], SourceNeeds())
    missing = [column for column in needs.columns if not row[column]]
    if isinstance(optical_bands, str):
        found = optical_bands.split()
        missing += [f"band {name}" for name in needs.optical_bands if name not in found]
    return ", ".join(missing)


def _needed() -> str:
    """Return what the sources have, in words."""
    return "; ".join(
        f"{source}: {', '.join(needs.columns)}" + (f", {len(needs.optical_bands)} bands" * bool(needs.optical_bands))
        for source, needs in SOURCES.items()
    )


RULES = (
    Rule(
        column="unreadable",
        kind="ExpectColumnValuesToBeInSet",
        limits=_nothing,
        wanted="Every file opens and can be read to its last block. Otherwise fetch or write it again.",
        reason="unreadable {unreadable}; fetch or write the file again",
    ),
    Rule(
        column="source_lacks",
        kind="ExpectColumnValuesToBeInSet",
        limits=_nothing,
        wanted="A scene has what its source (the catalogue's column) always has: {sources}. Otherwise bring it in again"
        " by `python -m cgm2net catalog`, or correct its source.",
        reason="lacks {source_lacks}, which every scene of its source has; bring it in again by `python -m cgm2net"
        " catalog`, or correct the catalogue's source column",
    ),
    Rule(
        column="without_crs",
        kind="ExpectColumnValuesToBeInSet",
        limits=_nothing,
        wanted="Every file has a coordinate reference system. Otherwise write the right one into it.",
        reason="no coordinate reference system in {without_crs}; write the right one into the file",
    ),
    Rule(
        column="optical_bands",
        kind="ExpectColumnValuesToMatchRegex",
        limits=lambda s: _names(s.required_optical_bands),
        wanted="The optical file holds the bands {optical_wanted}. Otherwise another file stands in its column of the"
        " catalogue, or its bands have no names (band descriptions).",
        reason="optical has bands {optical_bands}, wanted {optical_wanted}; put the right file into the catalogue's"
        " optical column, or write band names into it",
    ),
    Rule(
        column="reference_bands",
        kind="ExpectColumnValuesToMatchRegex",
        limits=lambda s: _names(s.required_optical_bands),
        wanted="The reference, where there is one, holds the bands {optical_wanted}. Otherwise as for optical.",
        reason="reference has bands {reference_bands}, wanted {optical_wanted}; put the right file into the catalogue's"
        " reference column, or write band names into it",
    ),
    Rule(
        column="sar_bands",
        kind="ExpectColumnValuesToMatchRegex",
        limits=lambda s: _names(s.required_sar_bands),
        wanted="The SAR file holds the bands {sar_wanted}. Otherwise as for the optical file.",
        reason="SAR has bands {sar_bands}, wanted {sar_wanted}; put the right file into the catalogue's sar column, or"
        " write band names into it",
    ),
    Rule(
        column="identical_files",
        kind="ExpectColumnValuesToBeInSet",
        limits=_nothing,
        wanted="No two files hold the same pixels. A reference that equals the cloudy image teaches to copy; give each"
        " role its own file.",
        reason="identical pixels: {identical_files}; give each its own file in the catalogue",
    ),
    Rule(
        column="overlap_share",
        kind="ExpectColumnValuesToBeBetween",
        limits=lambda s: {"min_value": s.min_overlap_share},
        wanted="Every file covers at least {s.min_overlap_share:.0%} of the optical footprint. 0 mostly means a wrong"
        " coordinate reference system in one file: compare them, and correct it.",
        reason="{overlap_role} covers {overlap_share:.0%} of the optical footprint, wanted at least"
        " {s.min_overlap_share:.0%}; check the coordinate reference systems: {crs}",
    ),
    Rule(
        column="gsd_ratio",
        kind="ExpectColumnValuesToBeBetween",
        limits=lambda s: {"max_value": s.max_gsd_ratio},
        wanted="Pixel sizes of a scene's files differ by at most {s.max_gsd_ratio:g} times. Otherwise the file of"
        " another product stands in the catalogue.",
        reason="pixel sizes differ {gsd_ratio:.1f} times, wanted at most {s.max_gsd_ratio:g}; bring the files to like"
        " resolution",
    ),
    Rule(
        column="optical_top_dn",
        kind="ExpectColumnValuesToBeBetween",
        limits=lambda _: {"min_value": 50},
        wanted="Optical and reference hold reflectance x 10000: the 99 % quantile of the brightest band is at least 50."
        " Otherwise they hold reflectance 0-1, a mask, or nothing; scale them.",
        reason="brightest optical or reference values reach {optical_top_dn:.3g}, wanted reflectance x 10000; scale"
        " the file, or replace it",
    ),
    Rule(
        column="offset_suspected",
        kind="ExpectColumnValuesToBeInSet",
        limits=_nothing,
        wanted="No image carries the +1000 DN of Sentinel-2 processing baseline 04.00 and later. Otherwise subtract"
        " 1000 from every valid pixel.",
        reason="offset of +1000 DN suspected, {offset_suspected}, wanted dark ends below; subtract 1000 from every"
        " valid pixel",
    ),
    Rule(
        column="swapped_share",
        kind="ExpectColumnValuesToBeBetween",
        limits=lambda _: {"max_value": 0.01},
        wanted="At most 1 % of pixels are brighter in blue (B02) than in green, red and near infrared (B08) while"
        " B8A or B11 are bright: nothing on Earth looks so. Otherwise bands are in the wrong order or wrongly named.",
        reason="bands of {swapped_role} out of order: in {swapped_share:.0%} of its pixels B02 looks like near infrared"
        " and B08 like blue, wanted at most 1 %; correct the order or the names of its bands",
    ),
    Rule(
        column="sar_median",
        kind="ExpectColumnValuesToBeBetween",
        limits=lambda _: {"min_value": -35, "max_value": 0, "strict_max": True},
        wanted="SAR is in dB: the median of its brightest band lies between -35 and 0. Linear power is positive;"
        " convert it by 10 log10.",
        reason="SAR is not in dB: median {sar_median:.3g}, wanted -35 to 0 (linear power is positive); convert it by"
        " 10 log10",
    ),
    Rule(
        column="nodata_share",
        kind="ExpectColumnValuesToBeBetween",
        limits=lambda s: {"max_value": s.max_nodata_share},
        wanted="At most {s.max_nodata_share:.0%} of the optical, SAR and reference image is without measurement."
        " Otherwise crop the scene to its data, or leave it out.",
        reason="{nodata_role} has {nodata_share:.0%} of pixels without measurement, wanted at most"
        " {s.max_nodata_share:.0%}; crop the scene to its data, or leave it out",
    ),
    Rule(
        column="label_max_code",
        kind="ExpectColumnValuesToBeBetween",
        limits=lambda s: {"min_value": 0, "max_value": s.label_codes_max},
        wanted="Labels are one uint8 band of codes 0 to {s.label_codes_max}, and 255 for unknown. Otherwise map their"
        " codes to those of the classes.",
        reason="label holds {label_codes}, wanted uint8 codes 0 to {s.label_codes_max}, or 255 for unknown; map its"
        " codes to those of the classes",
    ),
    Rule(
        column="wrong_dates",
        kind="ExpectColumnValuesToBeInSet",
        limits=_nothing,
        wanted="Acquisition times in the catalogue are ISO 8601 (2024-07-05 or 2024-07-05T10:30:00Z), or empty.",
        reason="not a date: {wrong_dates}, wanted ISO 8601 such as 2024-07-05, or nothing; correct the catalogue",
    ),
    Rule(
        column="gap_days",
        kind="ExpectColumnValuesToBeBetween",
        limits=lambda s: {"max_value": s.max_gap_days},
        wanted="At most {s.max_gap_days:g} days lie between the optical and the SAR acquisition, where both are known."
        " Otherwise choose a SAR image nearer in time.",
        reason="{gap_days:.1f} days between the optical and the SAR acquisition, wanted at most {s.max_gap_days:g};"
        " choose a SAR image nearer in time",
    ),
)


def build_suite(settings: ValidateSettings) -> "ExpectationSuite":
    """Return the rules as a suite, what is wanted in words as each expectation's description."""
    import great_expectations as gx
    import great_expectations.expectations as gxe

    expectations = [
        getattr(gxe, rule.kind)(
            column=rule.column,
            description=rule.wanted.format(**_words(settings)),
            **rule.limits(settings),
        )
        for rule in RULES
    ]
    return gx.ExpectationSuite(name=SUITE, expectations=expectations)


def explain(rule: Rule, facts: Mapping[str, object], settings: ValidateSettings) -> str:
    """Return what a person reads about a scene with these facts, which fails the rule."""
    return rule.reason.format(**facts, **_words(settings))


def failures(facts: Mapping[str, object], settings: ValidateSettings) -> dict[str, str]:
    """Return which of these facts fail and why, without Great Expectations; facts that are not there pass."""
    return {
        rule.column: explain(rule, facts, settings)
        for rule in RULES
        if facts.get(rule.column) is not None and not _holds(facts[rule.column], **rule.limits(settings))
    }


def _holds(
    value: object,
    *,
    value_set: Sequence[object] | None = None,
    regex: str = "",
    min_value: float = -inf,
    max_value: float = inf,
    strict_max: bool = False,
) -> bool:
    """Say whether a value is what an expectation of these limits wants; each class of them has names of its own."""
    if value_set is not None:
        return value in value_set
    if isinstance(value, str):
        return re.search(regex, value) is not None
    assert isinstance(value, (int, float))
    return min_value <= value <= max_value and not (strict_max and value == max_value)


def _words(settings: ValidateSettings) -> dict[str, object]:
    return {
        "s": settings,
        "optical_wanted": " ".join(settings.required_optical_bands),
        "sar_wanted": " ".join(settings.required_sar_bands),
        "sources": _needed(),
    }
