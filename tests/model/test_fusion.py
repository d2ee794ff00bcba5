"""MBF: what is interleaved, and what swapping the modalities swaps."""

import copy

import torch

from cgm2net.model.fusion import MambaFusion

CHANNELS = 4
CLOUD = torch.linspace(0, 1, 30).view(1, 5, 6, 1)


def make() -> MambaFusion:
    torch.manual_seed(0)
    return MambaFusion(CHANNELS, num_states=2).eval()


def swapped(module: MambaFusion) -> MambaFusion:
    """The module with everything of one modality exchanged for the other's."""
    other = copy.deepcopy(module)
    for one, two in (("inward_optical", "inward_sar"), ("norm_optical", "norm_sar"), ("weigh_optical", "weigh_sar")):
        first, second = getattr(other, one), getattr(other, two)
        setattr(other, one, second), setattr(other, two, first)
    for layer in (other.merge, other.shortcut):
        layer.weight = torch.nn.Parameter(layer.weight.roll(CHANNELS, dims=1))
    for scan in (other.rows, other.columns):  # read backwards, s1 o1 s2 o2 is o2 s2 o1 s1
        scan.delta_weight_KRD = torch.nn.Parameter(scan.delta_weight_KRD.flip(0))
        scan.delta_bias_KD = torch.nn.Parameter(scan.delta_bias_KD.flip(0))
        scan.A_log_KDN = torch.nn.Parameter(scan.A_log_KDN.flip(0))
        weight = scan.project.weight.view(2, -1, CHANNELS)
        scan.project.weight = torch.nn.Parameter(weight.flip(0).reshape(-1, CHANNELS))
    return other


def test_swapping_modalities_and_their_weights_and_turning_the_map_is_no_change():
    """o1 s1 o2 s2 … backwards is … s2 o2 s1 o1: the same sequence with the modalities swapped and the map turned."""
    module = make()
    module.spatial.weight.data = module.spatial.weight.data + module.spatial.weight.data.flip(2, 3)  # turns alike
    optical, sar = torch.randn(1, 5, 6, CHANNELS), torch.randn(1, 5, 6, CHANNELS)
    turned = swapped(module)(sar.flip(1, 2), optical.flip(1, 2), CLOUD.flip(1, 2)).flip(1, 2)
    assert torch.allclose(module(optical, sar, CLOUD), turned, atol=1e-5)


def test_swapping_modalities_alone_changes_the_answer():
    module = make()
    optical, sar = torch.randn(1, 5, 6, CHANNELS), torch.randn(1, 5, 6, CHANNELS)
    assert not torch.allclose(module(optical, sar, CLOUD), module(sar, optical, CLOUD), atol=1e-3)


def test_a_row_is_read_as_o1_s1_o2_s2():
    """With the backward scans silenced, a token is reached by those before it in the interleaved order only."""
    module = make()
    for scan in (module.rows, module.columns):
        with torch.no_grad():
            scan.delta_bias_KD[1] = -100.0  # softplus(-100) = 0: writes nothing
            scan.delta_weight_KRD[1] = 0.0
            scan.delta_bias_KD[0] = 1.0
            scan.D.zero_()
    optical, sar = torch.randn(1, 1, 3, CHANNELS), torch.randn(1, 1, 3, CHANNELS)
    base_optical, base_sar = module.exchange(optical, sar)
    changed = sar.clone()
    changed[0, 0, 1] += 1.0  # s2
    new_optical, new_sar = module.exchange(optical, changed)
    moved_optical = (new_optical - base_optical).abs().sum(-1)[0, 0] > 1e-6
    moved_sar = (new_sar - base_sar).abs().sum(-1)[0, 0] > 1e-6
    assert moved_optical.tolist() == [False, False, True]  # o2 stands before s2, o3 after it
    assert moved_sar.tolist() == [False, True, True]


def test_each_stream_is_weighed_by_the_other_and_by_the_cloud():
    module = make()
    optical, sar = torch.randn(1, 4, 4, CHANNELS), torch.randn(1, 4, 4, CHANNELS)
    told = {}
    for name in ("weigh_optical", "weigh_sar"):
        getattr(module, name).register_forward_hook(lambda _, given, answer, name=name: told.update({name: answer}))

    def weights(one: torch.Tensor, two: torch.Tensor, cloud: float = 0.0) -> dict[str, torch.Tensor]:
        module(one, two, torch.full((1, 4, 4, 1), cloud))
        return dict(told)

    before, after = weights(optical, sar), weights(optical, torch.randn_like(sar))
    assert torch.equal(before["weigh_sar"], after["weigh_sar"])  # optics did not change
    assert not torch.allclose(before["weigh_optical"], after["weigh_optical"])
    overcast = weights(optical, sar, cloud=1.0)
    # before anything is learned a cloud takes 2 from the optics' logit and gives 1 to that of SAR
    assert torch.allclose(overcast["weigh_optical"], before["weigh_optical"] - 2.0, atol=1e-6)
    assert torch.allclose(overcast["weigh_sar"], before["weigh_sar"] + 1.0, atol=1e-6)
