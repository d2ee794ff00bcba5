"""Cost of a forward pass against the size of the image: ``python benchmarks/network.py [--sizes 256 512 1024 2048]``.

Each size runs in a process of its own: time a pixel (the fastest of three passes), and by how much the peak of the
resident memory lies above what the process holds before its first pass.
"""

import argparse
import resource
import subprocess
import sys
import time

import torch

from cgm2net.model.interface import NetworkConfig
from cgm2net.model.network import CGM2Net

NUM_PASSES = 3


def measure(size_px: int, *, network_size: str, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    config = NetworkConfig(size=network_size, num_optical_bands=6, num_sar_bands=2, num_classes=6)
    network = CGM2Net(config).eval()
    inputs = [torch.rand(1, channels, size_px, size_px) for channels in (6, 2, 1)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    with torch.inference_mode():
        for _ in range(NUM_PASSES + 1):  # the first compiles
            begun = time.perf_counter()
            network(*inputs)
            seconds.append(time.perf_counter() - begun)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    micro, byte = 1e6 * min(seconds[1:]) / size_px**2, peak * 2**20 / size_px**2
    print(f"| {size_px} | {min(seconds[1:]):.2f} | {micro:.2f} | {peak:.0f} | {byte:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--network", default="tiny")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        measure(chosen.one, network_size=chosen.network, num_threads=chosen.threads)
        return
    print("| size, px | s | us/px | memory above the start, MiB | bytes/px |")
    print("|---|---|---|---|---|", flush=True)
    for size_px in chosen.sizes:
        command = [sys.executable, __file__, "--one", str(size_px), "--network", chosen.network]
        subprocess.run([*command, "--threads", str(chosen.threads)], check=True)


if __name__ == "__main__":
    main()
