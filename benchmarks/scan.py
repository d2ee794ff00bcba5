"""Times the back ends of the selective scan: ``python benchmarks/scan.py [--threads N]``; medians.

On the CPU, float32: batch 2, 192 channels, 4096 steps or a map of 64 x 64, and the network's own shapes; with
``pip install mambapy`` also that package's parallel scan. Where there is a GPU, on it too, bfloat16: the fused Triton
scan, and ``mamba_ssm`` with flips and transposes around it where that is installed, against the time that a copy takes
to move every tensor once.
"""

import argparse
import importlib.util
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
GPU_SHAPE = (16, 64, 64, 192)

Rival = tuple[Callable[..., Tensor], Sequence[Tensor]]
"""A scan with its arguments, of which the first has the output's shape."""


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


def by_mambapy(*arguments: Tensor) -> Tensor:
    """What mambapy's layer does around its ``pscan``; channels last."""
    from mambapy.pscan import pscan  # type: ignore[import-not-found,unused-ignore]

    x_BLD, delta_BLD, A_DN, B_BLN, C_BLN, D_D = arguments
    decay_BLDN = torch.exp(delta_BLD[..., None] * A_DN)
    write_BLDN = delta_BLD[..., None] * B_BLN[:, :, None] * x_BLD[..., None]
    y_BLD: Tensor = (pscan(decay_BLDN, write_BLDN) @ C_BLN[..., None])[..., 0]
    return y_BLD + D_D * x_BLD


def median_ms(run: Callable[[], object], *, repeats: int) -> float:
    run()  # compiles, warms the allocator
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def median_ms_on_gpu(run: Callable[[], object], *, repeats: int) -> float:
    for _ in range(3):
        run()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in events:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return float(statistics.median(start.elapsed_time(end) for start, end in events))


def measure(scan: Callable[..., Tensor], arguments: Sequence[Tensor], *, repeats: int) -> tuple[float, float]:
    """Forward without gradients, forward and backward with all of them [ms]."""
    median = median_ms_on_gpu if arguments[0].is_cuda else median_ms
    leaves = [value.clone().requires_grad_() for value in arguments]
    weights = torch.randn_like(arguments[0])

    def both() -> None:
        torch.autograd.grad(scan(*leaves), leaves, weights)

    with torch.no_grad():
        forward = median(lambda: scan(*arguments), repeats=repeats)
    return forward, median(both, repeats=repeats)


def report(title: str, results: Mapping[str, tuple[float, float]]) -> None:
    """One table; ratios are to the first row."""
    base = next(iter(results.values()))
    print(f"\n{title}\n{'':28}{'forward ms':>12}{'':>8}{'fwd+bwd ms':>12}")
    for name, (forward, both) in results.items():
        print(f"{name:28}{forward:12.3f}{base[0] / forward:7.1f}x{both:12.3f}{base[1] / both:7.1f}x")


def time_sequences(*, repeats: int) -> None:
    for state in (1, 16):
        arguments = sequence_arguments(state)
        rivals: dict[str, Rival] = {
            name: (partial(selective_scan, backend=name), arguments) for name in ("chunked", "numba")
        }
        if importlib.util.find_spec("mambapy") is not None:
            u, delta, A, B, C, D = arguments
            last = [t.transpose(1, 2).contiguous() for t in (u, delta, B, C)]
            rivals["mambapy's pscan"] = (by_mambapy, [*last[:2], A, *last[2:], D])
            torch.testing.assert_close(
                by_mambapy(*rivals["mambapy's pscan"][1]).mT, selective_scan(u, delta, A, B, C, D)
            )
        results = {name: measure(scan, values, repeats=repeats) for name, (scan, values) in rivals.items()}
        report(f"selective_scan 2 x 192 x 4096, state {state}", results)


def time_maps(*, repeats: int) -> None:
    scans: dict[str, Callable[..., Tensor]] = {
        "chunked": partial(scan_2d, backend="chunked"),
        "flips + numba scan": partial(reordered, backend="numba"),
        "numba in place": partial(scan_2d, backend="numba"),
    }
    shapes = [((2, 64, 64, 192), (1, 16))] + [(shape, (1, 4)) for shape in NETWORK_SHAPES]
    for shape, states in shapes:
        for state in states:
            arguments = map_arguments(*shape, state)
            results = {name: measure(scan, arguments, repeats=repeats) for name, scan in scans.items()}
            report(f"scan_2d {' x '.join(map(str, shape))}, four directions, state {state}", results)


def time_gpu(*, repeats: int) -> None:
    """The floor moves x, Δ, B, C and y once forward; these, without y, and all gradients once backward."""
    bandwidth = copy_bandwidth(repeats=repeats)
    print(f"\n{torch.cuda.get_device_name()}, a copy moves {bandwidth / 1e9:.2f} TB/s")
    for state in (1, 16):
        x, delta, A, B, C, D = (t.cuda() for t in map_arguments(*GPU_SHAPE, state))
        arguments = [x.bfloat16(), delta.bfloat16(), A, B.bfloat16(), C.bfloat16(), D]
        inputs, output = sum(arguments[i].nbytes for i in (0, 1, 3, 4)), arguments[0].nbytes
        results = {"floor": ((inputs + output) / bandwidth, (3 * inputs + 2 * output) / bandwidth)}
        if importlib.util.find_spec("mamba_ssm") is not None:
            results["flips + mamba_ssm"] = measure(partial(reordered, backend="mamba_ssm"), arguments, repeats=repeats)
        results["triton"] = measure(partial(scan_2d, backend="triton"), arguments, repeats=repeats)
        report(f"scan_2d {' x '.join(map(str, GPU_SHAPE))}, four directions, state {state}, bfloat16", results)


def copy_bandwidth(*, repeats: int) -> float:
    """Bytes read and written by a device copy [1/ms]."""
    source = torch.ones(2**28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_ms_on_gpu(lambda: target.copy_(source), repeats=repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", choices=["sequences", "maps", "gpu"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, median of {options.repeats}")
    tables = {"sequences": time_sequences, "maps": time_maps}
    tables |= {"gpu": time_gpu} if torch.cuda.is_available() else {}
    for name, table in tables.items():
        if options.only in (None, name):
            table(repeats=options.repeats)


if __name__ == "__main__":
    main()
