"""The whole network: shapes, switches, guidance and weights."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgm2net import weights
from cgm2net.errors import ModelError
from cgm2net.model.calibration import Calibration
from cgm2net.model.interface import NetworkConfig
from cgm2net.model.network import CGM2Net
from cgm2net.settings import OWN_PARTS


def config(**changes) -> NetworkConfig:
    return NetworkConfig(**{"num_optical_bands": 4, "num_sar_bands": 2, "num_classes": 3, **changes})


def inputs(height: int, width: int, *, optical: int = 4, sar: int = 2, batch: int = 1):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch, optical, height, width, generator=generator)
    radar = torch.rand(batch, sar, height, width, generator=generator)
    return image, radar, (torch.rand(batch, 1, height, width, generator=generator) > 0.5).float()


@settings(max_examples=8, deadline=None)
@given(
    st.integers(1, 5).map(lambda n: 8 * n), st.integers(1, 5).map(lambda n: 8 * n),
    st.integers(1, 13), st.integers(1, 4), st.integers(2, 9),
)  # fmt: skip
def test_any_size_that_the_strides_allow_and_any_bands(height, width, optical, sar, classes):
    network = CGM2Net(config(num_optical_bands=optical, num_sar_bands=sar, num_classes=classes)).eval()
    with torch.no_grad():
        prediction = network(*inputs(height, width, optical=optical, sar=sar))
    assert prediction.clear_BCHW.shape == (1, optical, height, width)
    assert prediction.logits_BKHW.shape == (1, classes, height, width)
    assert torch.isfinite(prediction.clear_BCHW).all()
    assert torch.isfinite(prediction.logits_BKHW).all()


def test_labels_may_lie_on_a_coarser_grid():
    """M3M-CR: 160 px of 3 m, labels of 48 px of 10 m."""
    network = CGM2Net(config()).eval()
    with torch.no_grad():
        prediction = network(*inputs(160, 160), label_shape=(48, 48))
    assert prediction.logits_BKHW.shape == (1, 3, 48, 48)
    assert prediction.clear_BCHW.shape == (1, 4, 160, 160)


SWITCHES = [*OWN_PARTS, "cloud_guidance", "soft_mask", "sar"]


@pytest.mark.parametrize("off", SWITCHES)
def test_each_module_can_be_switched_off(off):
    torch.manual_seed(0)
    full = CGM2Net(config())
    torch.manual_seed(0)
    without = CGM2Net(config(**{off: False}))
    fewer = sum(p.numel() for p in without.parameters()) < sum(p.numel() for p in full.parameters())
    assert fewer == (off in OWN_PARTS)
    prediction = without(*inputs(16, 16))
    (prediction.clear_BCHW.sum() + prediction.logits_BKHW.sum()).backward()


def test_without_guidance_the_mask_has_no_say():
    torch.manual_seed(0)
    network = CGM2Net(config(cloud_guidance=False)).eval()
    optical, sar, cloud = inputs(16, 16)
    with torch.no_grad():
        one, two = network(optical, sar, cloud), network(optical, sar, 1 - cloud)
    assert torch.equal(one.clear_BCHW, two.clear_BCHW)
    assert torch.equal(one.logits_BKHW, two.logits_BKHW)


def test_without_guidance_the_image_can_still_be_replaced():
    torch.manual_seed(0)
    network = CGM2Net(config(cloud_guidance=False)).eval()
    optical, sar, cloud = inputs(16, 16)
    with torch.no_grad():
        clear = network(optical, sar, cloud).clear_BCHW
    # the gate begins at sigmoid(0), the candidate at 0.15: nothing but learning decides where
    assert torch.allclose(clear, 0.5 * optical + 0.5 * 0.15, atol=1e-3)


def test_a_hard_mask_is_the_soft_one_cut_at_a_half():
    torch.manual_seed(0)
    network = CGM2Net(config(soft_mask=False)).eval()
    optical, sar, cloud = inputs(16, 16)
    with torch.no_grad():
        soft, hard = network(optical, sar, 0.2 + 0.6 * cloud), network(optical, sar, cloud)
    assert torch.equal(soft.clear_BCHW, hard.clear_BCHW)


def test_without_sar_it_has_no_say():
    torch.manual_seed(0)
    network = CGM2Net(config(sar=False)).eval()
    optical, sar, cloud = inputs(16, 16)
    with torch.no_grad():
        one, two = network(optical, sar, cloud), network(optical, 1 - sar, cloud)
    assert torch.equal(one.logits_BKHW, two.logits_BKHW)


def test_before_training_clear_pixels_are_nearly_copied_and_clouded_ones_replaced():
    torch.manual_seed(0)
    network = CGM2Net(config()).eval()
    optical, sar, cloud = inputs(16, 16)
    cloud[:] = 0.0
    cloud[:, :, :8] = 1.0
    with torch.no_grad():
        clear = network(optical, sar, cloud).clear_BCHW
    # the candidate begins at 0.15; the gate at sigmoid(4) = 0.982 under cloud, at sigmoid(-2) = 0.119 in the clear, of
    # which a quarter counts farther than two pixels from the cloud
    for rows, gate in ((slice(0, 8), 0.982), (slice(8, 10), 0.119), (slice(10, 16), 0.030)):
        wanted = (1 - gate) * optical[:, :, rows] + gate * 0.15
        assert torch.allclose(clear[:, :, rows], wanted, atol=1e-3), rows


def test_whatever_is_learned_most_of_a_clear_pixel_is_what_was_measured():
    torch.manual_seed(0)
    network = CGM2Net(config()).eval()
    torch.nn.init.constant_(network.restore.head.bias, 50.0)  # gate wide open, candidate far off
    optical, sar, cloud = inputs(16, 16)
    with torch.no_grad():
        clear = network(optical, sar, torch.zeros_like(cloud)).clear_BCHW
    candidate = 0.15 + 0.1 * 50.0  # mean and deviation that a new network has
    assert torch.allclose(clear, 0.75 * optical + 0.25 * candidate, atol=1e-3)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    network = CGM2Net(config())
    # what begins at zero hides what lies behind it
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    prediction = network(*inputs(32, 32))
    sum(part.square().sum() for part in prediction).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_wrong_inputs_are_named():
    network = CGM2Net(config())
    optical, sar, cloud = inputs(16, 16)
    with pytest.raises(ModelError, match=r"sar has shape \(1, 1, 16, 16\), this network takes \(1, 2, 16, 16\)"):
        network(optical, sar[:, :1], cloud)
    with pytest.raises(ModelError, match="20x16 px does not divide into the network's stride of 8"):
        network(*inputs(20, 16))


def card(network: CGM2Net) -> weights.Card:
    return weights.Card(
        config=network.config, optical_bands=("B02", "B03", "B04", "B08"), sar_bands=("VV", "VH"),
        classes=("a", "b", "c"), gsd_m=10.0, data_hash="0" * 64, seed=0, steps=1,
        num_parameters=sum(p.numel() for p in network.parameters()), library_version="0",
        calibration=Calibration(interval_clear=(1.5,) * 4, interval_cloudy=(2.0,) * 4),
    )  # fmt: skip


def test_weights_travel_with_their_card(tmp_path):
    torch.manual_seed(0)
    network = CGM2Net(config()).eval()
    weights.save(tmp_path, network, card(network))
    loaded, read = weights.load(tmp_path)
    assert read == card(network)
    with torch.no_grad():
        assert torch.equal(loaded(*inputs(16, 16)).clear_BCHW, network(*inputs(16, 16)).clear_BCHW)


def test_loading_is_strict(tmp_path):
    network = CGM2Net(config())
    with pytest.raises(ModelError, match=r"card\.json: not there"):
        weights.load(tmp_path)
    weights.save(tmp_path, network, card(network))
    changed = json.loads((tmp_path / "card.json").read_text())
    changed["config"]["num_classes"] = 4
    (tmp_path / "card.json").write_text(json.dumps(changed))
    with pytest.raises(ModelError, match="does not fit its card"):
        weights.load(tmp_path)
    (tmp_path / "card.json").write_text(json.dumps({**changed, "extra": 1}))
    with pytest.raises(ModelError, match="not a card of this version"):
        weights.load(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    (tmp_path / "card.json").write_text(card(network).model_dump_json())
    with pytest.raises(ModelError, match="does not fit its card"):
        weights.load(tmp_path)
