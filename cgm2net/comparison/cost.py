"""What a network costs: parameters, operations, time and memory, measured in a process of its own.

``python -m cgm2net.comparison.cost`` reads a request as JSON from standard input and writes the cost as JSON.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from cgm2net.errors import WorkerError
from cgm2net.settings import TrainSettings

WINDOW_PX = 256
"""Side of the image that operations and time of a prediction are given for."""

_NUM_STEPS, _NUM_PREDICTIONS = 7, 3
_SCAN_OPERATIONS = 9
"""Of a selective scan for each token, direction, channel and state, as VMamba counts them."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one network."""

    num_parameters: int
    gflops: float
    "Of a forward pass of one image of :data:`WINDOW_PX`: products in matrices and convolutions twice, and scans."
    seconds_a_step: float
    "Forward, backward and optimiser, at the batch and crop of training; the best of several."
    predict_ms: float
    "One image of :data:`WINDOW_PX`; the best of several."
    peak_mib: float
    "By so much the process grew in training, or what it held on the CUDA device."


def measure(settings: TrainSettings, *, bands: tuple[int, int, int]) -> Cost:
    """Measure in a fresh process.

    Args:
        settings: network, batch, crop, threads.
        bands: numbers of optical bands, SAR bands and classes.

    Raises:
        WorkerError: if the process dies, most often for want of memory.
    """
    request = json.dumps({"settings": settings.model_dump(mode="json"), "bands": bands})
    done = subprocess.run(
        [sys.executable, "-m", "cgm2net.comparison.cost"], input=request, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"signal or status {done.returncode}"]
        raise WorkerError(f"measuring the cost of {settings.architecture}: the process died: {last[0]}")
    return Cost(**json.loads(done.stdout))


def _measure_here(settings: TrainSettings, bands: tuple[int, int, int]) -> Cost:
    import torch

    from cgm2net.networks import build, config_of

    torch.set_num_threads(settings.num_threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build(config_of(settings, bands=bands)).to(device)

    def drawn(batch: int, size_px: int) -> list[torch.Tensor]:
        channels = (bands[0], bands[1], 1)
        return [torch.rand(batch, count, size_px, size_px, device=device) for count in channels]

    def timed(work: object, times: int) -> float:
        assert callable(work)
        seconds = []
        for _ in range(times + 1):  # the first compiles
            begun = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
        return min(seconds[1:])  # what else runs on the machine only ever adds

    window = drawn(1, WINDOW_PX)
    with torch.no_grad():
        gflops = _gflops(network, window)
        predict_seconds = timed(lambda: network(*window), _NUM_PREDICTIONS)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    batch = drawn(settings.batch_size, settings.crop_px)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def step() -> None:
        prediction = network(*batch)
        sum(part.float().square().mean() for part in prediction).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds_a_step = timed(step, _NUM_STEPS)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    peak_mib = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else grown_kib / 2**10
    return Cost(
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        gflops=gflops, seconds_a_step=seconds_a_step, predict_ms=1e3 * predict_seconds, peak_mib=peak_mib,
    )  # fmt: skip


def _gflops(network: object, inputs: Sequence[object]) -> float:
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    assert isinstance(network, nn.Module)
    with FlopCounterMode(display=False) as counter, _scans_counted(network) as scans:
        network(*inputs)
    return float(counter.get_total_flops() + scans[0]) / 1e9


@contextmanager
def _scans_counted(network: object) -> Iterator[list[int]]:
    """Count the scans, which torch's counter does not know, by the size of their step sizes."""
    from torch import Tensor, nn

    from cgm2net.model.blocks import ScanParameters

    assert isinstance(network, nn.Module)
    total = [0]

    def add(module: nn.Module, _: object, parameters: tuple[Tensor, ...]) -> None:
        assert isinstance(module, ScanParameters)
        total[0] += _SCAN_OPERATIONS * parameters[0].numel() * module.num_states

    hooks = [module.register_forward_hook(add) for module in network.modules() if isinstance(module, ScanParameters)]
    try:
        yield total
    finally:
        for hook in hooks:
            hook.remove()


def main() -> None:
    """Measure what standard input asks for."""
    request = json.load(sys.stdin)
    cost = _measure_here(TrainSettings.model_validate(request["settings"]), tuple(request["bands"]))
    sys.stdout.write(json.dumps(asdict(cost)))


if __name__ == "__main__":
    main()
