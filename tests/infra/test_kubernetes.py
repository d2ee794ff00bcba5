"""The Kubernetes overlays as kustomize builds them: against the schemas, and what must hold for every pod."""

import functools
import json
import re
import shutil
import tomllib

import pytest
import yaml
from infra_files import INFRA, ROOT, holds_secret, run, tool

OVERLAYS = ("single-node", "gpu-cluster")
KUBERNETES = "1.33"
TEMPLATES = {"cpu": "base/job-cpu.json", "gpu": "overlays/gpu-cluster/job-gpu.json"}

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.fixture(scope="session")
def build(env_file, tmp_path_factory):
    """Overlay -> what would be applied; its secrets are those of make-env."""
    copy = tmp_path_factory.mktemp("kustomize") / "infra"
    kubectl = tool("kubectl")
    shutil.copytree(INFRA, copy, ignore=shutil.ignore_patterns("sample-remote", "backup", ".env", "tls", "secrets.env"))
    shutil.copy(env_file, copy / "kubernetes/overlays/single-node/secrets.env")

    @functools.cache
    def built(overlay):
        said = run(kubectl, "kustomize", copy / "kubernetes/overlays" / overlay)
        assert said.returncode == 0, said.stderr
        return list(yaml.safe_load_all(said.stdout))

    return built


def job_of(pool):
    """Return the job that Prefect's worker makes of its template where a deployment says nothing."""
    from prefect.utilities.templating import apply_values

    template = json.loads((INFRA / "kubernetes" / TEMPLATES[pool]).read_text())
    properties = template["variables"]["properties"]
    values = {name: entry["default"] for name, entry in properties.items() if "default" in entry}
    values |= {"name": "run", "labels": {"prefect.io/flow-run-id": "1"}, "command": ["prefect", "flow-run", "execute"]}
    return apply_values(template["job_configuration"]["job_manifest"], values)


def pods(objects):
    """Yield name, labels and specification of every pod that would be, those of jobs and operators too."""
    for thing in objects:
        kind, name, spec = thing["kind"], thing["metadata"]["name"], thing.get("spec", {})
        if kind == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if kind in ("Deployment", "StatefulSet", "Job", "CronJob"):
            yield f"{kind}/{name}", spec["template"]["metadata"]["labels"], spec["template"]["spec"]
        if kind == "DaskCluster":
            for component in ("scheduler", "worker"):
                labels = {"dask.org/cluster-name": name, "dask.org/component": component}  # the operator's
                yield f"{kind}/{name}/{component}", labels, spec[component]["spec"]
    for pool in ("cpu", "gpu") if any(thing["metadata"]["name"] == "job-gpu" for thing in objects) else ("cpu",):
        template = job_of(pool)["spec"]["template"]
        yield f"pool {pool}", template["metadata"]["labels"], template["spec"]


def named(objects, kind):
    return {thing["metadata"]["name"]: thing for thing in objects if thing["kind"] == kind}


def selects(selector, labels):
    wanted = selector.get("matchLabels", {}).items()
    ranges = [(part["key"], part["values"]) for part in selector.get("matchExpressions", [])]
    return all(labels.get(k) == v for k, v in wanted) and all(labels.get(k) in values for k, values in ranges)


@every_overlay
def test_schemas_accept_every_object(build, overlay):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for thing in build(overlay):
        if thing["kind"] != "DaskCluster":  # its schema is Dask's operator's
            kubernetes_validate.validate(thing, KUBERNETES, strict=True)
    for name, labels, spec in pods(build(overlay)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": labels}, "spec": spec}
        assert kubernetes_validate.validate(pod, KUBERNETES, strict=True), name


@every_overlay
def test_pods_pass_the_restricted_standard(build, overlay):
    (namespace,) = named(build(overlay), "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, _, spec in pods(build(overlay)):
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["enableServiceLinks"] is False, name  # PREFECT_PORT, MLFLOW_PORT would be taken for settings
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert not any("hostPath" in volume for volume in spec["volumes"]), name
        for container in spec["containers"] + spec.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


@every_overlay
def test_containers_have_requests_limits_and_pinned_images(build, overlay):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, _, spec in pods(build(overlay)):
        for container in spec["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name
            image, _, tag = container["image"].rpartition(":")
            assert tag == version if image.startswith("cgm2net/") else re.match(r"\d+\.\d+", tag), name


@every_overlay
def test_servers_are_probed(build, overlay):
    for name, _, spec in pods(build(overlay)):
        if name.startswith(("Deployment", "StatefulSet", "DaskCluster")):
            assert "livenessProbe" in spec["containers"][0], name


@every_overlay
def test_secrets_are_references_to_names_of_env_example(build, overlay):
    named_there = set(re.findall(r"^(\w+)=$", (INFRA / ".env.example").read_text(), flags=re.MULTILINE))
    for name, _, spec in pods(build(overlay)):
        for variable in spec["containers"][0].get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if holds_secret(variable["name"]) and variable["name"] != "BACKUP_DATABASES":
                assert reference, f"{name}: {variable['name']} is written out"
            if reference:
                assert reference["name"] == "cgm2net"
                assert reference["key"] in named_there, name


def test_no_password_is_written_into_a_manifest(build, env_file):
    secrets = [
        line.split("=", 1)[1].removeprefix("admin:") for line in env_file.read_text().splitlines() if "=" in line[:40]
    ]
    secrets = [secret for secret in secrets if len(secret) == 48]
    assert len(secrets) == 10
    others = [thing for thing in build("single-node") if thing["kind"] != "Secret"]
    assert not any(secret in json.dumps(others) for secret in secrets)
    assert not named(build("gpu-cluster"), "Secret")


@every_overlay
def test_every_network_policy_speaks_of_pods_that_are(build, overlay):
    labels = [labels for _, labels, _ in pods(build(overlay))]
    policies = named(build(overlay), "NetworkPolicy")
    assert policies["default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        selectors = [policy["spec"]["podSelector"]]
        for rule in policy["spec"].get("ingress", []) + policy["spec"].get("egress", []):
            peers = rule.get("from", []) + rule.get("to", [])
            selectors += [
                peer["podSelector"] for peer in peers if "podSelector" in peer and "namespaceSelector" not in peer
            ]
        for selector in selectors:
            assert any(selects(selector, of) for of in labels), (name, selector)
            for part in selector.get("matchExpressions", []):
                there = {of.get(part["key"]) for of in labels}
                assert set(part["values"]) <= there, name


def reaches(objects, source, target, port):
    """Tell whether the policies let pods of one name open a port of another's: both sides must allow it."""
    policies = [policy["spec"] for policy in named(objects, "NetworkPolicy").values()]
    ends = {name: {"app.kubernetes.io/name": name} for name in (source, target)}

    def allowed(of, other, rules, peers):
        mine = [policy for policy in policies if selects(policy["podSelector"], ends[of])]
        return any(
            any(entry["port"] == port for entry in rule.get("ports", []))
            and any("podSelector" in peer and selects(peer["podSelector"], ends[other]) for peer in rule.get(peers, []))
            for policy in mine
            for rule in policy.get(rules, [])
        )

    return allowed(source, target, "egress", "to") and allowed(target, source, "ingress", "from")


@pytest.mark.parametrize(
    ("source", "target", "port", "open_"),
    [
        ("pipeline", "mlflow", 5000, True),
        ("pipeline", "prefect", 4200, True),
        ("pipeline", "storage", 8333, True),
        ("prefect-worker", "prefect", 4200, True),
        ("prepare", "mlflow", 5000, True),
        ("prepare", "storage", 8333, True),
        ("mlflow", "postgres", 5432, True),
        ("mlflow", "storage", 8333, True),
        ("prefect", "postgres", 5432, True),
        ("backup", "postgres", 5432, True),
        ("backup", "storage", 8333, True),
        ("pipeline", "postgres", 5432, False),
        ("prefect", "storage", 8333, False),
        ("prefect-worker", "postgres", 5432, False),
        ("checkout", "mlflow", 5000, False),
    ],
)
def test_who_reaches_whom(build, source, target, port, open_):
    assert reaches(build("single-node"), source, target, port) is open_


@every_overlay
def test_services_lead_to_ports_that_are(build, overlay):
    there = list(pods(build(overlay)))
    for name, service in named(build(overlay), "Service").items():
        if service["spec"].get("type") == "ExternalName":
            continue
        (spec,) = [spec for _, labels, spec in there if selects({"matchLabels": service["spec"]["selector"]}, labels)]
        ports = {port["name"] for port in spec["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports, name


@every_overlay
def test_what_pods_name_is_there(build, overlay):
    objects = build(overlay)
    claims = set(named(objects, "PersistentVolumeClaim"))
    maps = set(named(objects, "ConfigMap"))
    for name, _, spec in pods(objects):
        mounted = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
        templates = {"data"} if name.startswith("StatefulSet") else set()
        assert mounted == {volume["name"] for volume in spec["volumes"]} | templates, name
        for volume in spec["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, name
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps, name
        for variable in spec["containers"][0].get("env", []):
            if reference := variable.get("valueFrom", {}).get("configMapKeyRef"):
                assert reference["key"] in named(objects, "ConfigMap")[reference["name"]]["data"], name


@every_overlay
def test_ingress_ends_tls_for_both_names(build, overlay):
    (ingress,) = named(build(overlay), "Ingress").values()
    hosts = ["mlflow.cgm2net.example", "prefect.cgm2net.example"]
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == hosts
    assert ingress["spec"]["tls"] == [{"hosts": hosts, "secretName": "cgm2net-tls"}]


@every_overlay
def test_worker_may_make_jobs_and_nothing_else(build, overlay):
    (role,) = named(build(overlay), "Role").values()
    assert not named(build(overlay), "ClusterRole")
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert {resource for resource, _ in granted} == {"jobs", "pods", "pods/log"}
    assert {verb for resource, verb in granted if resource != "jobs"} == {"get", "list", "watch"}
    for name, _, spec in pods(build(overlay)):
        assert (spec.get("automountServiceAccountToken") is False) is ("prefect-worker" not in name), name


def test_gpu_jobs_go_to_gpu_nodes():
    spec = job_of("gpu")["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "nodeSelector" not in job_of("cpu")["spec"]["template"]["spec"]


@every_overlay
def test_workers_serve_the_pools_that_flows_are_deployed_to(build, overlay):
    prefect = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    deployed = [work for work in prefect["deployments"] if work["name"].endswith("-kubernetes")]
    starts = [spec["containers"][0].get("args", []) for _, _, spec in pods(build(overlay))]
    served = {word.removeprefix("--pool=") for words in starts for word in words if "--pool=" in word}
    assert served == {work["work_pool"]["name"] for work in deployed}
    for path in TEMPLATES.values():
        template = json.loads((INFRA / "kubernetes" / path).read_text())
        for work in deployed:
            assert work["work_pool"]["job_variables"].keys() <= template["variables"]["properties"].keys()


@pytest.mark.parametrize(
    "kustomization", sorted((INFRA / "kubernetes").rglob("kustomization.yaml")), ids=lambda path: path.parent.name
)
def test_kustomizations_name_what_exists(kustomization):
    """Holds where there is no kubectl."""
    content = yaml.safe_load(kustomization.read_text())
    files = [
        name
        for maker in content.get("configMapGenerator", [])
        for name in maker.get("files", []) + maker.get("envs", [])
    ]
    for name in (
        content.get("resources", [])
        + content.get("components", [])
        + [file.partition("=")[2] or file for file in files]
    ):
        assert (kustomization.parent / name).exists(), name
    for other in kustomization.parent.glob("*.yaml"):
        assert other.name == "kustomization.yaml" or other.name in content["resources"], f"{other.name} is not applied"
