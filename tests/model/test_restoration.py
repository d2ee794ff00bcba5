"""CGFR: nothing changes where it is clear, and nothing of the optics leaks from under a cloud."""

import pytest
import torch

from cgm2net.model.restoration import ChannelCorrelation, FeatureRestoration, SpatialCorrelation, SpeckleFilter

CHANNELS = 8


@pytest.fixture
def streams() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 16, 24, CHANNELS)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """No parameter at the zero it may have been given: what is tested must hold after training too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def half_clouded(tokens: torch.Tensor) -> torch.Tensor:
    cloud = torch.zeros(*tokens.shape[:3], 1)
    cloud[:, :, :12] = 1.0
    return cloud


def test_clear_optics_pass_unchanged_to_the_bit(streams):
    optical, sar = streams
    module = randomised(FeatureRestoration(CHANNELS, pools=(1, 2)))
    cloud = half_clouded(optical)
    restored, _ = module(optical, sar, cloud)
    assert torch.equal(restored[:, :, 12:], optical[:, :, 12:])
    assert (restored[:, :, :12] - optical[:, :, :12]).abs().mean() > 0.1


def test_an_all_clear_mask_makes_it_the_identity_on_optics(streams):
    optical, sar = streams
    restored, _ = randomised(FeatureRestoration(CHANNELS, pools=(1,)))(optical, sar, torch.zeros(2, 16, 24, 1))
    assert torch.equal(restored, optical)


@pytest.mark.parametrize("pool", [1, 2, 4])
def test_spatial_correlation_takes_nothing_from_under_a_cloud(streams, pool):
    optical, sar = streams
    module = randomised(SpatialCorrelation(CHANNELS, num_heads=2, pool=pool))
    cloud = half_clouded(optical)
    changed = torch.where(cloud > 0, torch.randn_like(optical) * 100, optical)
    before, _ = module(optical, sar, cloud)
    after, _ = module(changed, sar, cloud)
    assert torch.equal(before, after)


def test_channel_correlation_is_not_learned_from_clouded_pixels(streams):
    optical, sar = streams
    module = randomised(ChannelCorrelation(CHANNELS, num_heads=2))
    cloud = half_clouded(optical)
    changed = torch.where(cloud > 0, torch.randn_like(optical) * 100, optical)
    assert torch.allclose(module(optical, sar, cloud), module(changed, sar, cloud), atol=1e-6)


def test_a_kind_of_ground_gets_the_mean_of_its_clear_pixels_and_an_unseen_one_what_was_learned():
    """Two kinds that SAR tells apart; one has clear pixels of 3 and 5, the other lies all under cloud."""
    module = ChannelCorrelation(2, num_heads=1)
    with torch.no_grad():
        for layer in (module.query, module.key):
            layer.weight.copy_(torch.eye(2) * 50.0)
        module.value.weight.copy_(torch.eye(2))
        module.prior_hcc.copy_(torch.tensor([[[0.0, 0.0], [7.0, 8.0]]]))
    kind = torch.tensor([0, 0, 0, 1, 1]).view(1, 1, 5)
    sar = torch.nn.functional.one_hot(kind, 2).float()
    optical = torch.tensor([3.0, 5.0, 99.0, 99.0, 99.0]).view(1, 1, 5, 1).expand(-1, -1, -1, 2)
    cloud = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]).view(1, 1, 5, 1)
    found = module(optical, sar, cloud)
    # one pseudo-pixel of the learned value stands beside those that are seen: (3 + 5 + 0) / (2 + 1)
    assert torch.allclose(found[0, 0, :3], torch.tensor(8.0 / 3.0), atol=1e-4)
    assert torch.allclose(found[0, 0, 3:], torch.tensor([7.0, 8.0]), atol=1e-4)


def test_pooled_keys_are_means_of_what_is_clear_in_their_cells():
    """A window of 16 tokens in cells of 2 x 2: one clear token in a cell speaks for it, at a quarter of the weight."""
    module = SpatialCorrelation(1, num_heads=1, pool=2)
    with torch.no_grad():
        module.query.weight.zero_()
        module.value.weight.fill_(1.0)
        module.null_logit_h.fill_(-50.0)
    optical = torch.full((1, 16, 16, 1), 99.0)
    cloud = torch.ones(1, 16, 16, 1)
    optical[0, 0, 0], cloud[0, 0, 0] = 4.0, 0.0  # alone in its cell
    optical[0, 4:6, 4:6], cloud[0, 4:6, 4:6] = 9.0, 0.0  # a whole cell
    found, missing = module(optical, torch.zeros(1, 16, 16, 1), cloud)
    assert torch.allclose(found, torch.full_like(found, (0.25 * 4.0 + 1.0 * 9.0) / 1.25), atol=1e-4)
    assert (missing < 1e-6).all()


def test_a_window_without_a_clear_pixel_says_so(streams):
    optical, sar = streams
    module = randomised(SpatialCorrelation(CHANNELS, num_heads=1, pool=1))
    cloud = torch.ones(2, 16, 24, 1)
    cloud[:, 0, 0] = 0.0  # one clear pixel, in the first window
    found, missing = module(optical, sar, cloud)
    assert torch.allclose(missing[:, 8:], torch.ones(2, 8, 24, 1))
    assert (missing[:, :8, :8] < 1.0).all()
    assert torch.allclose(found[:, 8:], module.null_value_C.expand(2, 8, 24, CHANNELS), atol=1e-6)


def test_sar_decides_which_clear_neighbour_is_carried():
    """Two kinds of ground, told apart by SAR alone; optics 1 on the one and 2 on the other, cloud over both."""
    module = SpatialCorrelation(2, num_heads=1, pool=1)
    with torch.no_grad():
        for layer in (module.query, module.key):
            layer.weight.copy_(torch.eye(2) * 6.0)
        module.value.weight.copy_(torch.eye(2))
        module.null_logit_h.fill_(-50.0)
    kind = torch.zeros(1, 8, 8, dtype=torch.long)
    kind[:, :, 4:] = 1
    sar = torch.nn.functional.one_hot(kind, 2).float()
    optical = (kind + 1.0).unsqueeze(-1).expand(-1, -1, -1, 2).contiguous()
    cloud = torch.zeros(1, 8, 8, 1)
    cloud[:, :4] = 1.0
    found, _ = module(optical, sar, cloud)
    assert torch.allclose(found[0, :4, :4], torch.tensor(1.0), atol=1e-3)
    assert torch.allclose(found[0, :4, 4:], torch.tensor(2.0), atol=1e-3)


def test_windows_of_a_map_that_they_do_not_divide_are_padded_with_cloud(streams):
    optical, sar = streams[0][:, :11, :13], streams[1][:, :11, :13]
    module = randomised(SpatialCorrelation(CHANNELS, num_heads=2, pool=2))
    found, missing = module(optical, sar, torch.zeros(2, 11, 13, 1))
    assert found.shape == optical.shape
    assert missing.shape == (2, 11, 13, 1)
    assert (missing < 1.0).all()


def test_speckle_filter_averages_and_keeps_a_constant():
    module = SpeckleFilter(4)  # begins as a plain 3x3 mean, half blended in
    constant = torch.full((1, 5, 5, 4), 3.0)
    optical, cloud = torch.zeros(1, 5, 5, 4), torch.zeros(1, 5, 5, 1)
    assert torch.allclose(module(optical, constant, cloud), constant)
    spike = torch.zeros(1, 5, 5, 4)
    spike[0, 2, 2] = 9.0
    filtered = module(optical, spike, cloud)
    # half of 9 stays, half becomes the mean 9 / 9 = 1 of its neighbourhood; neighbours get half of 1
    assert torch.allclose(filtered[0, 2, 2], torch.tensor(5.0))
    assert torch.allclose(filtered[0, 1, 1], torch.tensor(0.5))
