"""CGSI: a clouded optical token hardly writes, and each stream is told what the other knows better."""

import torch

from cgm2net.model.interaction import SemanticInteraction

CHANNELS = 8


def make(seed: int = 0) -> SemanticInteraction:
    torch.manual_seed(seed)
    module = SemanticInteraction(CHANNELS, num_states=2)
    for stream in (module.optical, module.sar):
        torch.nn.init.normal_(stream.outward.weight, std=0.5)
    return module.eval()


def test_a_clouded_token_changes_the_state_less_than_a_clear_one():
    """The optical reading of all other pixels moves less when a token is replaced under cloud than in the clear."""
    module = make()
    x_o, x_s = torch.randn(1, 8, 8, CHANNELS), torch.randn(1, 8, 8, CHANNELS)
    replaced = x_o.clone()
    replaced[0, 4, 4] = torch.randn(CHANNELS) * 3
    elsewhere = torch.ones(8, 8, dtype=torch.bool)
    elsewhere[4, 4] = False

    def reading(tokens: torch.Tensor, cloud: torch.Tensor) -> torch.Tensor:
        delta, b, _ = module.optical.parameters_of(tokens)
        _, _, c = module.sar.parameters_of(x_s)
        return module.optical.scan(tokens, module.damped(delta, cloud), b, c)

    moved = {}
    for name, amount in (("clear", 0.0), ("clouded", 1.0)):
        cloud = torch.zeros(1, 8, 8, 1)
        cloud[0, 4, 4] = amount
        moved[name] = (reading(replaced, cloud) - reading(x_o, cloud))[0, elsewhere].abs().mean()
    assert moved["clouded"] < 0.3 * moved["clear"]  # steps are damped to 1 - 0.88 = 0.12


def test_damping_is_the_formula():
    module = make()
    with torch.no_grad():
        module.damping_logit_D.fill_(0.0)  # a = 0.5
    delta = torch.full((1, 1, 2, 4, CHANNELS), 0.4)
    cloud = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    damped = module.damped(delta, cloud)
    assert torch.allclose(damped[0, 0, 0], torch.tensor(0.4))
    assert torch.allclose(damped[0, 0, 1], torch.tensor(0.2))


def test_where_all_is_clear_sar_does_not_enter_the_optical_stream():
    module = make()
    optical, sar = torch.randn(1, 8, 8, CHANNELS), torch.randn(1, 8, 8, CHANNELS)
    clear, clouded = torch.zeros(1, 8, 8, 1), torch.ones(1, 8, 8, 1)
    other = torch.randn_like(sar)
    assert torch.equal(module(optical, sar, clear)[0], module(optical, other, clear)[0])
    assert not torch.allclose(module(optical, sar, clouded)[0], module(optical, other, clouded)[0])


def test_under_full_cloud_optics_do_not_enter_the_sar_stream():
    module = make()
    optical, sar = torch.randn(1, 8, 8, CHANNELS), torch.randn(1, 8, 8, CHANNELS)
    clear, clouded = torch.zeros(1, 8, 8, 1), torch.ones(1, 8, 8, 1)
    other = torch.randn_like(optical)
    assert torch.equal(module(optical, sar, clouded)[1], module(other, sar, clouded)[1])
    assert not torch.allclose(module(optical, sar, clear)[1], module(other, sar, clear)[1])


def test_it_begins_as_the_identity():
    torch.manual_seed(0)
    module = SemanticInteraction(CHANNELS, num_states=4)
    optical, sar = torch.randn(1, 4, 6, CHANNELS), torch.randn(1, 4, 6, CHANNELS)
    new_optical, new_sar = module(optical, sar, torch.rand(1, 4, 6, 1))
    assert torch.equal(new_optical, optical)
    assert torch.equal(new_sar, sar)
