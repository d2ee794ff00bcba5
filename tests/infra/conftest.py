import pytest
from infra_files import INFRA, run


@pytest.fixture(scope="session")
def env_file(tmp_path_factory):
    """What infra/make-env writes."""
    env = tmp_path_factory.mktemp("installation") / ".env"
    made = run(
        INFRA / "make-env", "example.org", "--self-signed", env={"CGM2NET_ENV": str(env), "PATH": "/usr/bin:/bin"}
    )
    assert made.returncode == 0, made.stderr
    return env
