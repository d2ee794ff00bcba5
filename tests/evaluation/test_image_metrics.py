import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.image import spectral_angle_mapper, structural_similarity_index_measure

from cgm2net.errors import MetricError
from cgm2net.evaluation.image_metrics import ImageMetrics, image_metrics, sum_names

SIDE = 16


def tiles(seed: int, count: int = 2, bands: int = 3) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "predicted_BCHW": torch.rand(count, bands, SIDE, SIDE, generator=rng),
        "reference_BCHW": torch.rand(count, bands, SIDE, SIDE, generator=rng),
        "cloud_BHW": torch.rand(count, SIDE, SIDE, generator=rng),
        "valid_BHW": torch.rand(count, SIDE, SIDE, generator=rng) > 0.001,
    }


def add(metrics: ImageMetrics, batch: dict[str, torch.Tensor]) -> np.ndarray:
    return metrics.update(
        batch["predicted_BCHW"], batch["reference_BCHW"], cloud_BHW=batch["cloud_BHW"], valid_BHW=batch["valid_BHW"]
    )


def score(
    predicted_BCHW: torch.Tensor,
    reference_BCHW: torch.Tensor,
    *,
    cloud_BHW: torch.Tensor | None = None,
    valid_BHW: torch.Tensor | None = None,
) -> dict[str, float]:
    count, bands, *shape = reference_BCHW.shape
    metrics = ImageMetrics(bands, cloud_threshold=0.5)
    metrics.update(
        predicted_BCHW,
        reference_BCHW,
        cloud_BHW=torch.zeros(count, *shape) if cloud_BHW is None else cloud_BHW,
        valid_BHW=torch.ones(count, *shape, dtype=torch.bool) if valid_BHW is None else valid_BHW,
    )
    return metrics.compute()


def test_constant_error_of_a_tenth_is_20_db() -> None:
    reference = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 0.5
    result = score(reference + 0.1, reference)
    assert result["all/psnr"] == pytest.approx(20.0, abs=1e-4)
    assert result["all/mae"] == pytest.approx(0.1, abs=1e-6)
    assert result["all/rmse"] == pytest.approx(0.1, abs=1e-6)
    assert result["all/cc"] == pytest.approx(1.0, abs=1e-6)


def test_psnr_of_a_set_is_that_of_the_pooled_error() -> None:
    reference = torch.zeros(2, 1, SIDE, SIDE) + 0.2
    predicted = reference.clone()
    predicted[0] += 0.1  # MSE 0.01, 20 dB
    predicted[1] += 0.01  # MSE 0.0001, 40 dB; pooled MSE 0.00505, not the 30 dB of the mean
    assert score(predicted, reference)["all/psnr"] == pytest.approx(-10 * np.log10(0.00505), abs=1e-4)


def test_groups_split_at_the_threshold_and_add_up() -> None:
    reference = torch.full((1, 1, SIDE, SIDE), 0.5)
    predicted = reference.clone()
    predicted[..., :4] += 0.2
    cloud = torch.full((1, SIDE, SIDE), 0.5)  # at the threshold: clear
    cloud[..., :4] = 0.51
    result = score(predicted, reference, cloud_BHW=cloud)
    assert result["cloudy/mae"] == pytest.approx(0.2, abs=1e-6)
    assert result["clear/mae"] == 0.0
    assert result["all/mae"] == pytest.approx(0.05, abs=1e-6)  # 4 of 16 columns


def test_spectral_angle_of_orthogonal_spectra_is_90_degrees() -> None:
    predicted, reference = torch.zeros(2, 1, 2, SIDE, SIDE)
    predicted[:, 0] = 0.5
    reference[:, 1] = 0.5
    assert score(predicted, reference)["all/sam"] == pytest.approx(90.0)
    reference[:, 0] = 0.5
    assert score(predicted, reference)["all/sam"] == pytest.approx(45.0)
    assert score(torch.zeros_like(reference), reference)["all/sam"] == pytest.approx(90.0)  # a spectrum of zeros


def test_equal_the_field_s_definitions_on_unmasked_input() -> None:
    batch = tiles(1)
    result = score(batch["predicted_BCHW"], batch["reference_BCHW"])
    ssim = structural_similarity_index_measure(batch["predicted_BCHW"], batch["reference_BCHW"], data_range=1.0)
    angle = spectral_angle_mapper(batch["predicted_BCHW"], batch["reference_BCHW"])
    assert isinstance(ssim, torch.Tensor)
    assert result["all/ssim"] == pytest.approx(float(ssim), abs=1e-6)
    assert result["all/sam"] == pytest.approx(float(angle.rad2deg()), abs=1e-4)


def test_correlation_is_that_of_each_band_averaged() -> None:
    batch = tiles(2)
    pairs = zip(batch["predicted_BCHW"].transpose(0, 1), batch["reference_BCHW"].transpose(0, 1), strict=True)
    expected = np.mean([np.corrcoef(p.numpy().ravel(), r.numpy().ravel())[0, 1] for p, r in pairs])
    assert score(batch["predicted_BCHW"], batch["reference_BCHW"])["all/cc"] == pytest.approx(expected, abs=1e-6)


def test_correlation_of_flat_bands() -> None:
    varied = tiles(3, bands=1)["reference_BCHW"]
    flat = torch.full_like(varied, 0.3)
    assert score(flat, varied)["all/cc"] == 0.0
    assert "all/cc" not in score(varied, flat)


def test_unmeasured_pixels_do_not_count() -> None:
    reference = torch.rand(1, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    predicted, valid = reference.clone(), torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    predicted[..., 0, 0] = 1 - reference[..., 0, 0]
    valid[..., 0, 0] = False
    assert score(predicted, reference)["all/psnr"] < 60
    result = score(predicted, reference, valid_BHW=valid)
    assert result["all/psnr"] == 100.0  # the cap of a perfect answer
    assert result["all/ssim"] == pytest.approx(1.0)  # no window with the unmeasured pixel is scored


def test_ssim_leaves_out_windows_that_hold_an_unmeasured_pixel() -> None:
    metrics = ImageMetrics(1, cloud_threshold=0.5)
    valid = torch.ones(1, 32, 32, dtype=torch.bool)
    valid[0, 16, 16] = False  # 11 x 11 windows hold it
    image = torch.zeros(1, 1, 32, 32)
    sums = metrics.update(image, image, cloud_BHW=torch.zeros(1, 32, 32), valid_BHW=valid)[0, 0]
    named = dict(zip(sum_names(["B02"]), sums, strict=True))
    assert named["pixels"] == 32 * 32 - 1
    assert named["ssim_pixels"] == 32 * 32 - 11 * 11


def test_ssim_is_absent_where_every_window_is_broken() -> None:
    valid = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    valid[0, 0, 0] = True
    image = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    result = score(image, image, valid_BHW=valid)
    assert result["all/mae"] == 0.0
    assert "all/ssim" not in result


def test_predictions_are_clamped() -> None:
    reference = torch.ones(1, 1, SIDE, SIDE)
    reference[..., :8] = 0.0
    assert score(reference * 3 - 1, reference)["all/rmse"] == 0.0


def test_a_group_without_pixels_is_absent() -> None:
    image = torch.zeros(1, 1, SIDE, SIDE)
    assert {name.split("/")[0] for name in score(image, image)} == {"all", "clear"}
    assert score(image, image, valid_BHW=torch.zeros(1, SIDE, SIDE, dtype=torch.bool)) == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite_even_where_it_is_not_scored(bad: float) -> None:
    batch = tiles(5)
    batch["valid_BHW"][1, 3, 3] = False
    batch["predicted_BCHW"][1, 0, 3, 3] = bad
    with pytest.raises(MetricError, match=r"predicted image: 1 of .* in tiles \[1\]"):
        add(ImageMetrics(3, cloud_threshold=0.5), batch)


def test_refuses_sums_that_are_not_finite() -> None:
    metrics = ImageMetrics(1, cloud_threshold=0.5)
    metrics.sums_GS[:] = 1.0
    metrics.sums_GS[0, 1] = np.nan
    with pytest.raises(MetricError, match="all/psnr"):
        metrics.compute()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 2**16), min_size=2, max_size=4), st.data())
def test_merging_parts_equals_one_pass(seeds: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(seeds) - 1))
    whole, first, second = (ImageMetrics(2, cloud_threshold=0.5) for _ in range(3))
    rows = [add(whole, tiles(seed, bands=2)) for seed in seeds]
    for part, chosen in ((first, seeds[:cut]), (second, seeds[cut:])):
        for seed in chosen:
            add(part, tiles(seed, bands=2))
    first.merge(second)
    assert first.compute() == pytest.approx(whole.compute(), rel=1e-12)
    assert image_metrics(np.concatenate(rows).sum(axis=0)) == pytest.approx(whole.compute(), rel=1e-12)
