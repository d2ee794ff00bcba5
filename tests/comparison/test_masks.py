"""Masks made wrong on purpose."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgm2net.comparison.masks import BLOCK_PX, REACH_PX, Spoiled, spoil


def square(side: int = 64) -> torch.Tensor:
    cloud = torch.zeros(1, 1, side, side)
    cloud[..., 20:40, 20:40] = 1.0
    return cloud


def test_a_dilated_mask_grows_and_an_eroded_one_shrinks_by_the_reach_on_every_side():
    side = 20
    assert spoil(square(), "dilated").sum() == (side + 2 * REACH_PX) ** 2
    assert spoil(square(), "eroded").sum() == (side - 2 * REACH_PX) ** 2
    assert torch.equal(spoil(square(), "none"), square())


def test_a_dropped_mask_loses_a_quarter_in_whole_squares():
    cloud = torch.ones(2, 1, 4 * BLOCK_PX, 4 * BLOCK_PX)
    dropped = spoil(cloud, "dropped")
    assert dropped.mean() == 0.75
    assert dropped[0, 0, BLOCK_PX, BLOCK_PX] == 0
    assert dropped[0, 0, 0, BLOCK_PX] == 1
    assert torch.equal(dropped[0], dropped[1])


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["none", "dilated", "eroded", "dropped"]))
def test_a_spoiled_mask_is_a_mask(seed, how):
    cloud = torch.rand(1, 1, 32, 40, generator=torch.Generator().manual_seed(seed))
    spoiled = spoil(cloud, how)
    assert spoiled.shape == cloud.shape
    assert (spoiled >= 0).all()
    assert (spoiled <= 1).all()
    if how == "dilated":
        assert (spoiled >= cloud).all()
    else:
        assert (spoiled <= cloud).all()


def test_the_network_is_shown_the_spoiled_mask():
    seen = []

    class Asked(torch.nn.Module):
        def forward(self, optical, sar, cloud, *, label_shape=None):
            seen.append((cloud, label_shape))

    Spoiled(Asked(), "dilated")(torch.zeros(1), torch.zeros(1), square(), label_shape=(3, 3))
    assert torch.equal(seen[0][0], spoil(square(), "dilated"))
    assert seen[0][1] == (3, 3)
