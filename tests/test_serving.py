"""The registered model behind `mlflow models serve`, a real server on loopback."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgm2net import registry, weights
from cgm2net.data import synthetic
from cgm2net.files import sha256_file
from cgm2net.model.calibration import Calibration, probabilities
from cgm2net.model.interface import NetworkConfig
from cgm2net.model.network import CGM2Net
from cgm2net.predict.model import load_model
from cgm2net.predict.run import PredictSettings, predict_scene
from cgm2net.predict.scene import files_as_inputs

DEADLINE_SECONDS = 120
BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as the registry saves it, of a small network with heads drawn at random."""
    torch.manual_seed(0)
    network = CGM2Net(NetworkConfig(num_optical_bands=6, num_sar_bands=2, num_classes=3))
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    card = weights.Card(
        config=network.config, optical_bands=BANDS, sar_bands=("VV", "VH"), classes=("a", "b", "c"), gsd_m=10.0,
        data_hash="0" * 64, seed=0, steps=1, num_parameters=1, library_version="0",
        calibration=Calibration(temperature_cloudy=2.0, interval_clear=(1.5,) * 6, interval_cloudy=(2.0,) * 6),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    weights.save(folder / "weights", network, card)
    registry._save_model(folder / "weights", folder / "saved", mlflow_model=None)
    return folder / "saved"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one folder that the server may use, with a scene in it."""
    folder = tmp_path_factory.mktemp("root")
    spec = synthetic.SceneSpec(region=2, date="2024-06-01", size_px=128, cover=0.3)
    for role in ("optical", "sar"):
        synthetic.write(synthetic.uri(role, spec), folder / f"{role}.tif")
    (folder / "link.tif").symlink_to("/etc/hostname")
    return folder


@pytest.fixture(scope="module")
def server(saved: Path, root: Path) -> Iterator[str]:
    """`mlflow models serve` on a free port, ready to answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "CGM2NET_SERVE_ROOT": str(root), "CGM2NET_SERVE_MAX_PIXELS": str(128 * 128),
        "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(DEADLINE_SECONDS), "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", str(saved), "--env-manager", "local", "--host",
        "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + DEADLINE_SECONDS
        while not answers(url):
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.communicate()


def answers(url: str) -> bool:
    try:
        return bool(get(f"{url}/ping"))
    except urllib.error.URLError:
        return False


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=DEADLINE_SECONDS) as reply:
        return bytes(reply.read())


def ask(server: str, body: dict[str, Any]) -> Any:
    """Post a request; return what the server predicts, or its error's status and text."""
    request = urllib.request.Request(
        f"{server}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as reply:
            return json.loads(reply.read())["predictions"]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def arrays(seed: int, *, size_px: int = 32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.random((1, count, size_px, size_px), dtype=np.float32)
        for name, count in {"optical": 6, "sar": 2, "cloud": 1}.items()
    }


def test_fifty_requests_at_once_get_the_networks_own_numbers(server: str, saved: Path) -> None:
    network, card = weights.load(saved / "artifacts/model")
    wanted = {}
    for seed in range(5):
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(array) for name, array in arrays(seed).items()}
            prediction = network(*inputs.values())
            sure = probabilities(prediction.logits_BKHW, inputs["cloud"][:, 0], card.calibration)
        wanted[seed] = {"clear": prediction.clear_BCHW.numpy(), "probabilities": sure.numpy()}

    def one(number: int) -> None:
        body = {"inputs": {name: array.tolist() for name, array in arrays(number % 5).items()}}
        answer = ask(server, body)
        for name, array in wanted[number % 5].items():
            np.testing.assert_array_equal(np.array(answer[name], np.float32), array, err_msg=name)

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(one, range(50)))


def test_a_table_of_paths_gives_the_bytes_of_the_command(server: str, saved: Path, root: Path, tmp_path: Path) -> None:
    rows = [{"optical": "optical.tif", "sar": str(root / "sar.tif"), "scene_id": "s", "out": "made/here"}]
    (answer,) = ask(server, {"dataframe_records": rows})
    assert (answer["scene_id"], answer["folder"]) == ("s", "made/here/s")
    inputs = files_as_inputs("s", optical=root / "optical.tif", sar=root / "sar.tif")
    model = load_model(str(saved / "artifacts/model"))
    report = predict_scene(inputs, model, tmp_path, settings=PredictSettings(num_threads=1))
    assert answer["products"] == {path.name: sha256_file(path) for path in report.folder.iterdir()}
    assert answer["products"]["restored.tif"] == sha256_file(root / "made/here/s/restored.tif")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"optical": "../optical.tif", "sar": "sar.tif"}, "leads out of the folder"),
        ({"optical": "/etc/hostname", "sar": "sar.tif"}, "leads out of the folder"),
        ({"optical": "link.tif", "sar": "sar.tif"}, "leads out of the folder"),
        ({"optical": "optical.tif", "sar": "sar.tif", "out": "../elsewhere"}, "leads out of the folder"),
        ({"optical": "optical.tif", "sar": "sar.tif", "scene_id": "../../x"}, "leads out of the folder"),
        ({"optical": "optical.tif", "sar": "optical.tif"}, "lacks VV, VH"),
        ({"optical": "optical.tif\0", "sar": "sar.tif"}, "leads out of the folder"),
        ({"optical": "optical.tif"}, "wrong or missing: sar"),
        ({"optical": "none.tif", "sar": "sar.tif"}, "cannot be read as a raster"),
    ],
)
def test_paths_that_lead_astray_are_refused(server: str, row: dict[str, str], reason: str) -> None:
    status, text = ask(server, {"dataframe_records": [row]})
    assert status == 400
    assert reason in text


def test_requests_that_are_too_large_or_wrong_are_refused_and_say_so(server: str) -> None:
    large = {name: array.tolist() for name, array in arrays(0, size_px=136).items()}
    status, text = ask(server, {"inputs": large})
    assert (status, "18496 pixels, at most 16384" in text) == (400, True)
    odd = {name: array.tolist() for name, array in arrays(0, size_px=36).items()}
    status, text = ask(server, {"inputs": odd})
    assert (status, "stride of 8" in text) == (400, True)
    status, text = ask(server, {"inputs": {"optical": [[[[0.0]]]]}})
    assert (status, "got optical; wanted a dict of the arrays optical, sar, cloud" in text) == (400, True)
    status, text = ask(server, {"inputs": [[1, 2], [3, 4]]})
    assert (status, "wanted a dict of the arrays" in text, "Traceback" in text) == (400, True, False)
    holed = {name: array.tolist() for name, array in arrays(0).items()}
    holed["sar"][0][0][0][0] = None
    status, text = ask(server, {"inputs": holed})
    assert (status, "sar holds values that are no finite numbers" in text) == (400, True)
    status, text = ask(server, {"dataframe_split": {"columns": ["optical", "sar"], "data": []}})
    assert (status, "the table has no row" in text) == (400, True)


def test_the_server_describes_itself(server: str) -> None:
    described = json.loads(get(f"{server}/openapi.json"))
    assert {"/invocations", "/ping", "/health", "/version"} <= set(described["paths"])
    assert b"swagger" in get(f"{server}/docs").lower()
