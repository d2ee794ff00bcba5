from hypothesis import given
from hypothesis import strategies as st

from cgm2net.evaluation.metrics import flatten, nest


def test_names_and_nesting() -> None:
    nested = {"cloudy": {"psnr": 20.0, "iou_water": 0.5}, "copy": {"cloudy": {"psnr": 9.0}}}
    flat = {"cloudy/psnr": 20.0, "cloudy/iou_water": 0.5, "copy/cloudy/psnr": 9.0}
    assert flatten(nested) == flat
    assert nest(flat) == nested


@given(st.dictionaries(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")).map("/".join), st.floats(0, 1)))
def test_flatten_undoes_nest(flat: dict[str, float]) -> None:
    assert flatten(nest(flat)) == flat
