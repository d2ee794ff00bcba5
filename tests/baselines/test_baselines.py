"""What every network must satisfy, and what is each baseline's own."""

from functools import partial

import pytest
import torch
from pydantic import ValidationError

from cgm2net import weights
from cgm2net.baselines.glfcr import filter_each
from cgm2net.model.calibration import Calibration
from cgm2net.model.interface import NetworkConfig
from cgm2net.networks import ARCHITECTURES, build
from cgm2net.settings import OWN_PARTS
from cgm2net.training.losses import charbonnier, cross_entropy

BASELINES = [name for name in ARCHITECTURES if name != "cgm2net"]
every_network = pytest.mark.parametrize("architecture", ARCHITECTURES)
every_baseline = pytest.mark.parametrize("architecture", BASELINES)


def new(architecture, *, optical=3, sar=2, classes=4, **changes):
    torch.manual_seed(0)
    return build(
        NetworkConfig(
            num_optical_bands=optical, num_sar_bands=sar, num_classes=classes, architecture=architecture, **changes
        )
    )


def inputs(height, width, *, optical=3, sar=2, batch=1):
    draw = partial(torch.rand, generator=torch.Generator().manual_seed(1))
    return tuple(draw(batch, bands, height, width) for bands in (optical, sar, 1))


def stir(network):
    """What begins at zero hides what lies behind it."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


@every_network
@pytest.mark.parametrize(("height", "width", "optical", "sar", "classes"), [(8, 24, 1, 1, 2), (40, 8, 13, 4, 9)])
def test_any_size_bands_and_classes(architecture, height, width, optical, sar, classes):
    network = stir(new(architecture, optical=optical, sar=sar, classes=classes)).eval()
    with torch.no_grad():
        answer = network(*inputs(height, width, optical=optical, sar=sar, batch=3))
    assert answer.clear_BCHW.shape == answer.spread_BCHW.shape == (3, optical, height, width)
    assert answer.logits_BKHW.shape == (3, classes, height, width)
    assert all(torch.isfinite(part).all() for part in answer)
    assert (answer.spread_BCHW > 0).all()


@every_network
def test_every_parameter_gets_a_gradient(architecture):
    network = stir(new(architecture))
    sum(part.square().sum() for part in network(*inputs(32, 32, batch=2))).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@every_network
def test_a_batch_of_two_is_two_singles(architecture):
    network = stir(new(architecture)).eval()
    pair = inputs(16, 24, batch=2)
    with torch.no_grad():
        both = network(*pair)
        singles = [network(*(x[i : i + 1] for x in pair)) for i in range(2)]
    for part, *alone in zip(both, *singles, strict=True):
        torch.testing.assert_close(part, torch.cat(alone), rtol=1e-5, atol=1e-5)


@every_network
def test_labels_may_lie_on_a_coarser_grid(architecture):
    with torch.no_grad():
        answer = new(architecture).eval()(*inputs(40, 40), label_shape=(12, 12))
    assert answer.logits_BKHW.shape == (1, 4, 12, 12)


# candidate or image at the mean, 0.15; gate at sigmoid(0) = 0.5; residual at 0
STARTS = {
    "unet": lambda optical: 0.5 * optical + 0.075,
    "siamese_mamba": lambda optical: 0.5 * optical + 0.075,
    "dsen2cr": lambda optical: optical,
    "glfcr": lambda optical: optical,
    "uncrtaints": lambda optical: torch.full_like(optical, 0.15),
}


@every_baseline
def test_what_an_untrained_one_answers(architecture):
    optical, sar, cloud = inputs(16, 16)
    with torch.no_grad():
        answer = new(architecture).eval()(optical, sar, cloud)
    torch.testing.assert_close(answer.clear_BCHW, STARTS[architecture](optical), rtol=0, atol=1e-5)


@every_network
@pytest.mark.parametrize("changed", [1, 2], ids=["sar", "cloud"])
def test_sar_and_mask_have_a_say_in_both_answers(architecture, changed):
    network = stir(new(architecture)).eval()
    given = list(inputs(16, 16))
    with torch.no_grad():
        before = network(*given)
        given[changed] = 1 - given[changed]
        after = network(*given)
    assert (before.clear_BCHW - after.clear_BCHW).abs().max() > 1e-4
    assert (before.logits_BKHW - after.logits_BKHW).abs().max() > 1e-4


@every_baseline
@pytest.mark.parametrize("part", OWN_PARTS)
def test_a_part_that_only_cgm2net_has_cannot_be_switched_off(architecture, part):
    with pytest.raises(ValidationError, match=f"{part}: parts of cgm2net, which {architecture} has not"):
        new(architecture, **{part: False})


@every_baseline
def test_without_guidance_the_mask_has_no_say(architecture):
    network = stir(new(architecture, cloud_guidance=False)).eval()
    optical, sar, cloud = inputs(16, 16)
    with torch.no_grad():
        one, two = network(optical, sar, cloud), network(optical, sar, 1 - cloud)
    assert torch.equal(one.clear_BCHW, two.clear_BCHW)


@pytest.mark.parametrize("architecture", ["unet", "dsen2cr", "glfcr", "siamese_mamba"])
def test_the_spread_does_not_teach_what_restores(architecture):
    network = stir(new(architecture))
    network(*inputs(16, 16)).spread_BCHW.sum().backward()
    taught = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught == {"spread"}


def test_each_pixel_is_filtered_with_its_own_kernel():
    """3x3 pixels 1..9 in two channels, the second ten times the first; two groups."""
    first = torch.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    tokens = torch.cat([first, 10 * first], dim=-1)
    kernels = torch.zeros(1, 3, 3, 2, 9)
    kernels[0, 1, 1, 0] = 1.0  # the middle: the sum of all, 45
    kernels[0, 0, 0, 0, 8] = 2.0  # the corner: twice what lies below on the right, 2 * 5
    kernels[0, 2, 1, 0, 1] = 1.0  # bottom middle: what lies above, 5
    kernels[0, 0, 2, 0, 5] = 7.0  # top right: what lies outside on the right, 0
    kernels[0, 1, 0, 1, 5] = 1.0  # the second group, middle left: its right neighbour, 50
    filtered = filter_each(tokens, kernels)
    assert filtered[0, :, :, 0].tolist() == [[10, 0, 0], [0, 45, 0], [0, 5, 0]]
    assert filtered[0, :, :, 1].tolist() == [[0, 0, 0], [50, 0, 0], [0, 0, 0]]


@every_network
def test_two_tiles_are_learned_by_heart(architecture):
    """Clear fields of four classes under half a cloud; SAR shows the class."""
    network = new(architecture)
    label = torch.randint(0, 4, (2, 4, 4), generator=torch.Generator().manual_seed(2))
    label = label.repeat_interleave(8, 1).repeat_interleave(8, 2)
    clear = torch.tensor([[0.05, 0.1, 0.3], [0.2, 0.3, 0.1], [0.4, 0.2, 0.2], [0.1, 0.4, 0.4]])[label].permute(
        0, 3, 1, 2
    )
    cloud = torch.zeros(2, 1, 32, 32)
    cloud[..., 16:] = 1.0
    optical, sar = torch.where(cloud > 0, 0.8, clear), 0.2 + 0.2 * label[:, None].repeat(1, 2, 1, 1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        answer = network(optical, sar, cloud)
        both = charbonnier(answer.clear_BCHW, clear, torch.ones_like(cloud)), cross_entropy(answer.logits_BKHW, label)
        losses.append([float(part.detach()) for part in both])
        optimiser.zero_grad()
        sum(both).backward()
        optimiser.step()
    (image, classes), (image_end, classes_end) = losses[0], losses[-1]
    assert image_end < image / 3
    assert classes_end < classes / 4


def test_weights_travel_with_their_card(tmp_path):
    network = stir(new("glfcr")).eval()
    card = weights.Card(
        config=network.config, optical_bands=("B02", "B03", "B04"), sar_bands=("VV", "VH"),
        classes=("a", "b", "c", "d"), gsd_m=10.0, data_hash="0" * 64, seed=0, steps=1,
        num_parameters=sum(p.numel() for p in network.parameters()), library_version="0",
        calibration=Calibration(interval_clear=(1.5,) * 3, interval_cloudy=(2.0,) * 3),
    )  # fmt: skip
    weights.save(tmp_path, network, card)
    loaded, read = weights.load(tmp_path)
    assert read == card
    assert type(loaded) is type(network)
    with torch.no_grad():
        for one, two in zip(network(*inputs(16, 16)), loaded(*inputs(16, 16)), strict=True):
            assert torch.equal(one, two)
