"""What SECURITY.md says of the code: nothing runs what it reads, no secret is kept, the tests that it names exist."""

import ast
import re
from pathlib import Path

import pytest

from cgm2net import tracking
from cgm2net.lineage import lineage_tags

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("cgm2net", "pipelines", "infra") for path in (ROOT / folder).rglob("*.py"))

RUNS_WHAT_IT_READS = re.compile(
    r"(c?pickle|dill|cloudpickle|joblib|marshal|shelve)\.(load|loads|open|Unpickler)|pandas\.read_pickle|pd\.read_pickle"
    r"|yaml\.(load|load_all|unsafe_load|full_load)|eval|exec|os\.(system|popen)|tempfile\.mktemp|.*\.extractall"
)
NEEDS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}


def dotted(expression):
    """Return ``a.b.c`` of such an expression; what is no name is left out."""
    if isinstance(expression, ast.Attribute):
        return f"{dotted(expression.value)}.{expression.attr}"
    return expression.id if isinstance(expression, ast.Name) else ""


def faults(source):
    """Yield line and what is wrong there: a call that runs what it reads, or trusts what it should check."""
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = dotted(call.func)
        given = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
        if RUNS_WHAT_IT_READS.fullmatch(name):
            yield call.lineno, name
        if name in NEEDS and given.get(NEEDS[name][0]) is not NEEDS[name][1]:
            yield call.lineno, f"{name} without {NEEDS[name][0]}={NEEDS[name][1]}"
        if given.get("shell") is True:
            yield call.lineno, f"{name} through a shell"
        if given.get("verify", True) is False:
            yield call.lineno, f"{name} without a look at the certificate"


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import pickle\npickle.load(file)", "pickle.load"),
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(path)", "np.load without allow_pickle=False"),
        ("yaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("subprocess.run(line, shell=True)", "subprocess.run through a shell"),
        ("requests.get(url, verify=False)", "requests.get without a look at the certificate"),
        ("tar.extractall(folder)", "tar.extractall"),
        ("eval(text)", "eval"),
    ],
)
def test_the_rule_sees_faults(source, fault):
    assert [what for _, what in faults(source)] == [fault]


@pytest.mark.parametrize(
    "source",
    ["yaml.safe_load(t)", "np.load(p, allow_pickle=False)", "torch.load(p, weights_only=True)", "network.eval()"],
)
def test_the_rule_lets_pass_what_is_safe(source):
    assert not list(faults(source))


def test_nothing_runs_what_it_reads():
    assert len(SOURCES) > 100
    found = {f"{path.relative_to(ROOT)}:{line}": what for path in SOURCES for line, what in faults(path.read_text())}
    assert not found


def test_no_secret_of_the_environment_is_kept_with_a_run(project, monkeypatch):
    secrets = {
        name: f"tell-nobody-{number}"
        for number, name in enumerate(
            ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PREFECT_API_AUTH_STRING", "AWS_SECRET_ACCESS_KEY")
        )
    }
    for name, secret in secrets.items():
        monkeypatch.setenv(name, secret)
    tags = lineage_tags(ROOT, data_hash="d")
    with tracking.run(project / "run.json", experiment="e", name="n", params={"seed": 0}, tags=tags) as run:
        run.log_metrics({"loss": 1.0})
    kept = b"".join(path.read_bytes() for path in sorted(project.rglob("*")) if path.is_file())
    assert b"loss" in kept
    assert not [name for name, secret in secrets.items() if secret.encode() in kept]


def test_the_tests_that_security_md_names_exist():
    names = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "SECURITY.md").read_text())
    assert len(names) > 10
    for path, test in names:
        assert (ROOT / path).is_file(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"
