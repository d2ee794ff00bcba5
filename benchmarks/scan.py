"""Times the CPU back ends of the selective scan: ``python benchmarks/scan.py [--threads N]``.

Batch 2, 192 channels, 4096 steps or a map of 64 x 64, and the network's own shapes; medians, float32.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from cgm2net.model.scan import Backend, scan_2d, selective_scan
from cgm2net.model.scan import map as scan_map

NETWORK_SHAPES = [(16, 32, 32, 64), (16, 16, 16, 96)]


def sequence_arguments(state: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=generator)
    u, delta = normal(2, 192, 4096), F.softplus(normal(2, 192, 4096) - 3)
    return [u, delta, -torch.exp(normal(192, state)), normal(2, state, 4096), normal(2, state, 4096), normal(192)]


def map_arguments(batch: int, height: int, width: int, channels: int, state: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=generator)
    pixels = (batch, height, width)
    delta = F.softplus(normal(*pixels, 4, channels) - 3)
    matrices = [normal(*pixels, 4, state) for _ in range(2)]
    return [normal(*pixels, channels), delta, -torch.exp(normal(4, channels, state)), *matrices, normal(channels)]


def reordered(*arguments: Tensor, backend: Backend) -> Tensor:
    """scan_2d by flips and transposes around the 1-D scan, for a back end that does not need them."""
    x_BHWD, delta_BHWKD, A_KDN, B_BHWKN, C_BHWKN, D_D = arguments
    return scan_map.scan_by_reordering(x_BHWD, delta_BHWKD, A_KDN, B_BHWKN, C_BHWKN, D_D=D_D, backend=backend)


def median_ms(run: Callable[[], object], *, repeats: int) -> float:
    run()  # compiles, warms the allocator
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def measure(scan: Callable[..., Tensor], arguments: Sequence[Tensor], *, repeats: int) -> tuple[float, float]:
    """Forward without gradients, forward and backward with all of them [ms]."""
    leaves = [value.clone().requires_grad_() for value in arguments]
    weights = torch.randn_like(arguments[0])

    def both() -> None:
        torch.autograd.grad(scan(*leaves), leaves, weights)

    with torch.no_grad():
        forward = median_ms(lambda: scan(*arguments), repeats=repeats)
    return forward, median_ms(both, repeats=repeats)


def report(
    title: str, rivals: Mapping[str, Callable[..., Tensor]], arguments: Sequence[Tensor], *, repeats: int
) -> None:
    """One table; ratios are to the row named chunked."""
    results = {name: measure(scan, arguments, repeats=repeats) for name, scan in rivals.items()}
    base = results["chunked"]
    print(f"\n{title}\n{'':28}{'forward ms':>12}{'':>8}{'fwd+bwd ms':>12}")
    for name, (forward, both) in results.items():
        print(f"{name:28}{forward:12.2f}{base[0] / forward:7.1f}x{both:12.2f}{base[1] / both:7.1f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, median of {options.repeats}")
    for state in (1, 16):
        sequences = {name: partial(selective_scan, backend=name) for name in ("chunked", "numba")}
        report(
            f"selective_scan 2 x 192 x 4096, state {state}",
            sequences,
            sequence_arguments(state),
            repeats=options.repeats,
        )
    maps = {
        "chunked": partial(scan_2d, backend="chunked"),
        "flips + numba scan": partial(reordered, backend="numba"),
        "numba in place": partial(scan_2d, backend="numba"),
    }
    shapes = [((2, 64, 64, 192), (1, 16))] + [(shape, (1, 4)) for shape in NETWORK_SHAPES]
    for shape, states in shapes:
        for state in states:
            title = f"scan_2d {' x '.join(map(str, shape))}, four directions, state {state}"
            report(title, maps, map_arguments(*shape, state), repeats=options.repeats)


if __name__ == "__main__":
    main()
