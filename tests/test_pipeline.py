"""dvc.yaml, params.yaml, commands, folders and code carry the same words and know of each other."""

from pathlib import Path

import grimp
import pytest
import yaml

from cgm2net.__main__ import main
from cgm2net.settings import Settings

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
MODULES = {
    "train": "cgm2net.training.train", "evaluate": "cgm2net.evaluation.evaluate", "register": "cgm2net.register",
}  # fmt: skip

PACKAGE_DOC = (ROOT / "cgm2net/__init__.py").read_text()  # its one line cannot change a result
_PAGE = {f"cgm2net/evaluation/page.{kind}" for kind in ("html", "css", "js")}  # the report's template
READ_BY_PATH = {"evaluate": _PAGE, "register": {"cgm2net/serving.py", *_PAGE}}  # MLflow copies serving.py as a file


def module_of(stage: str) -> str:
    return MODULES.get(stage, f"cgm2net.data.{stage}")


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("cgm2net")


def file_of(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def names(paths: list) -> list[str]:
    return [next(iter(path)) if isinstance(path, dict) else path for path in paths]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_one_word_everywhere(stage):
    assert STAGES[stage]["cmd"] == f"python -m cgm2net {stage}"
    assert stage in main.commands
    assert stage in {field.alias or name for name, field in Settings.model_fields.items()}
    assert stage in yaml.safe_load((ROOT / "params.yaml").read_text())
    outs = names(STAGES[stage]["outs"])
    assert all(out == f"artifacts/{stage}" or out.startswith(f"artifacts/{stage}/") for out in outs)
    assert (ROOT / file_of(module_of(stage))).is_file()
    assert list((ROOT / "tests").rglob(f"test_{stage}.py"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_module_that_it_imports(stage, imports):
    module = module_of(stage)
    needed = {file_of(name) for name in (module, *imports.find_upstream_modules(module))}
    needed |= {f"{parent}/__init__.py" for file in needed for parent in Path(file).parents if parent != Path()}
    needed |= READ_BY_PATH.get(stage, set())
    needed -= {file for file in needed if (ROOT / file).read_text() in ("", PACKAGE_DOC)}
    deps = [dep for dep in STAGES[stage]["deps"] if dep.startswith("cgm2net")]
    missing = sorted(file for file in needed if not any(file == dep or file.startswith(f"{dep}/") for dep in deps))
    assert missing == [], f"add to the deps of {stage} in dvc.yaml"
    useless = [dep for dep in deps if not any(file == dep or file.startswith(f"{dep}/") for file in needed)]
    assert useless == [], f"take from the deps of {stage} in dvc.yaml"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_its_own_params(stage):
    assert stage in STAGES[stage]["params"]
    assert set(STAGES[stage]["params"]) <= {stage, "seed", "evaluate"}
