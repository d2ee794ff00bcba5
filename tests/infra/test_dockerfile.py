"""The Dockerfile: as hadolint reads it, and what its stages must keep to."""

import fnmatch
import re

import pytest
from infra_files import INFRA, ROOT, run, tool

DOCKERFILE = INFRA / "Dockerfile"
FINAL = ("services", "storage", "cpu", "cuda")


def _stages():
    """Return stage -> (its base, its instructions), continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = (base, [])
        elif stages:
            stages[name][1].append((word, rest))
    return stages


STAGES = _stages()


def _chain(name):
    """Return the instructions of a stage with those of the stages it stands on."""
    base, own = STAGES[name]
    return (_chain(base) if base in STAGES else []) + own


def test_hadolint_finds_nothing():
    said = run(tool("hadolint"), DOCKERFILE)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("stage", FINAL)
def test_image_runs_as_a_fixed_user_without_rights(stage):
    users = [rest for word, rest in _chain(stage) if word == "USER"]
    assert users[-1] == "10001:10001"


@pytest.mark.parametrize("stage", FINAL)
def test_image_starts_without_a_shell_between(stage):
    commands = {word: rest for word, rest in _chain(stage) if word in ("ENTRYPOINT", "CMD")}
    assert commands["ENTRYPOINT"] == '["tini", "--"]'
    assert commands["CMD"].startswith("[")


def test_base_images_are_pinned():
    pins = re.findall(r"^ARG \w+_IMAGE=(\S+)$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    assert len(pins) == 3
    assert all(re.search(r":\d+\.\d+", pin) for pin in pins)
    assert {base for base, _ in STAGES.values() if not base.startswith("$")} <= {*STAGES, "mamba-${MAMBA}"}


def test_packages_come_before_sources():
    """A change of the sources leaves the layers of packages, gigabytes, as they are."""
    for name in ("cpu-packages", "cuda-packages", "cuda-mamba-packages", "services-packages"):
        copied = [rest for word, rest in _chain(name) if word == "COPY"]
        assert not any(re.match(r"(cgm2net|pipelines|\.) ", rest) for rest in copied)
    for name in ("cpu", "cuda"):
        own = [rest for word, rest in STAGES[name][1] if word == "COPY"]
        assert [rest.split()[0] for rest in own[-2:]] == ["cgm2net", "pipelines"]


def test_every_package_is_installed_from_the_lock():
    installs = [rest for _, own in STAGES.values() for word, rest in own if word == "RUN" and "pip install" in rest]
    commands = [part for rest in installs for part in re.split(r"&&|;", rest) if "pip install" in part]
    assert len(commands) >= 6
    assert all("requirements.lock" in command for command in commands)


def test_no_secret_at_build_time():
    for _, own in STAGES.values():
        for word, rest in own:
            if word in ("ARG", "ENV"):
                assert not re.search(r"PASSWORD|SECRET|TOKEN", rest), rest


def test_context_holds_what_is_copied_and_no_secret():
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]

    def sent(path):
        kept = True
        for pattern in patterns:  # the last one that fits decides
            bare = pattern.lstrip("!").removeprefix("**/")
            if any(fnmatch.fnmatch(str(part), bare) for part in (path, *path.parents, path.name)):
                kept = pattern.startswith("!")
        return kept

    for name in STAGES:
        for word, rest in STAGES[name][1]:
            if word == "COPY" and not rest.startswith("--from"):
                for source in rest.split()[:-1]:
                    path = (ROOT / source).relative_to(ROOT)
                    assert (ROOT / path).exists(), source
                    assert sent(path), source
    for secret in ("infra/.env", "infra/tls/key.pem", ".git/config", "data/catalog.csv", ".env"):
        assert not sent((ROOT / secret).relative_to(ROOT)), secret
