"""How GIS programs are to show a layer: names of codes and colours in small files beside it.

GDAL keeps names of codes in a sidecar file, ``LAYER.tif.aux.xml``; QGIS loads ``LAYER.qml`` by itself.
"""

from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from cgm2net.pictures import TRUE_COLOUR_WHITE, TRUE_COLOURS, true_colour_bands
from cgm2net.predict.layers import Layer


def write_styles(path: Path, layer: Layer) -> None:
    """Write what a layer needs to be shown well: names and colours of codes, or true colour."""
    if layer.codes:
        _write(path.with_name(f"{path.name}.aux.xml"), _category_names(layer))
        _write(path.with_suffix(".qml"), _qgis_style(_paletted(layer)))
    elif layer.name == "restored" and true_colour_bands(layer.bands):
        _write(path.with_suffix(".qml"), _qgis_style(_true_colour(layer)))


def _category_names(layer: Layer) -> Element:
    root = Element("PAMDataset")
    categories = SubElement(SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for code in sorted(layer.codes):
        SubElement(categories, "Category").text = layer.codes[code][0]
    return root


def _paletted(layer: Layer) -> Element:
    renderer = Element("rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor="")
    palette = SubElement(renderer, "colorPalette")
    for code, (name, colour) in sorted(layer.codes.items()):
        if code != layer.nodata:
            SubElement(palette, "paletteEntry", value=str(int(code)), color=colour, label=name, alpha="255")
    return renderer


def _true_colour(layer: Layer) -> Element:
    renderer = Element("rasterrenderer", type="multibandcolor", opacity="1", alphaBand="-1", nodataColor="")
    for channel, band in zip(TRUE_COLOURS, true_colour_bands(layer.bands), strict=True):
        renderer.set(f"{channel}Band", str(layer.bands.index(band) + 1))
        stretch = SubElement(renderer, f"{channel}ContrastEnhancement")
        SubElement(stretch, "minValue").text = "0"
        SubElement(stretch, "maxValue").text = f"{TRUE_COLOUR_WHITE:g}"  # QGIS multiplies by the file's scale first
        SubElement(stretch, "algorithm").text = "StretchToMinimumMaximum"
    return renderer


def _qgis_style(renderer: Element) -> Element:
    root = Element("qgis", version="3.22.0", styleCategories="Symbology")
    SubElement(root, "pipe").append(renderer)
    return root


def _write(path: Path, root: Element) -> None:
    indent(root)
    path.write_text(tostring(root, encoding="unicode") + "\n", encoding="utf-8")
