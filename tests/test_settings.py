"""params.yaml: what is refused and how it is said, and the whole surface."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from cgm2net.errors import SettingsError
from cgm2net.settings import CloudmaskSettings, Settings, missing_cloud_bands, read_settings

REPO = Path(__file__).parents[1]
STAGES = ("download", "validate", "coregister", "cloudmask", "tile", "train", "evaluate", "register")


def read(tmp_path: Path, **changes: Any) -> Settings:
    """Read settings that hold nothing but the needed, and the changes."""
    content: dict[str, Any] = {stage: {} for stage in STAGES}
    content["tile"] = {"classes": ["land", "water"]}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            content[section][name] = value
        else:
            content[section] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value != "gone"}))
    return read_settings(path)


def test_the_projects_own_file_is_accepted() -> None:
    settings = read_settings(REPO / "params.yaml")
    assert settings.tile.classes == ("forest", "rangeland", "agriculture", "urban", "barren", "water")
    for stage in STAGES:
        assert type(settings.section(stage)).__name__.lower() == f"{stage}settings"


def test_a_section_left_empty_takes_its_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, validate=None).validate_ == read(tmp_path, validate={}).validate_
    assert read(tmp_path, train=None).train == read(tmp_path, train={}).train


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__stepz": 5}, r"params\.yaml: train\.stepz: unknown key; correct its spelling or remove it"),
        ({"trian": {}}, r"params\.yaml: trian: unknown key"),
        ({"validate_": {}}, r"params\.yaml: validate_: unknown key"),
        ({"train": "gone"}, r"params\.yaml: train: missing; add it"),
        ({"tile": None}, r"params\.yaml: tile\.classes: missing; add it"),
        ({"seed": -1}, r"params\.yaml: seed: got -1: Input should be greater than or equal to 0"),
        ({"seed": None}, r"params\.yaml: seed: got None: Input should be a valid integer"),
        ({"train__steps": 0}, r"train\.steps: got 0: .*greater than or equal to 1"),
        ({"train__steps": "many"}, r"train\.steps: got 'many': .*valid integer"),
        ({"train__learning_rate": float("inf")}, r"train\.learning_rate: got inf: .*finite"),
        ({"train__learning_rate": float("nan")}, r"train\.learning_rate: got nan: .*(finite|greater)"),
        ({"train__crop_px": 44}, r"params\.yaml: train: crop_px 44 must be a multiple of 8"),
        ({"train__steps": 9, "train__warmup_steps": 9}, r"train: warmup_steps 9 must be below steps 9"),
        ({"train__precision": "8"}, r"train\.precision: got '8': Input should be '32-true' or 'bf16-mixed'"),
        ({"train__restoration_weight": 0, "train__segmentation_weight": 0}, "both 0: nothing to learn; raise one"),
        ({"train__validate_every_steps": 30}, "validate_every_steps must be a multiple of log_every_steps 20"),
        ({"validate__max_nodata_share": 1.5}, r"validate\.max_nodata_share: got 1\.5: .*less than or equal to 1"),
        ({"validate__required_sar_bands": ["HH"]}, "validate: unknown band 'HH'; known: B01, B02"),
        ({"coregister__optical_bands": ["B2"]}, "coregister: unknown band 'B2'; known: B01"),
        ({"cloudmask__method": "best"}, r"cloudmask\.method: got 'best': Input should be 'given_or_simple', 'given'"),
        ({"tile__size_px": 100}, r"params\.yaml: tile: size_px 100 must be a multiple of 8"),
        ({"tile__classes": ["all"]}, r"tile\.classes: got \['all'\]: .*at least 2"),
        ({"tile__val_share": 0.5, "tile__test_share": 0.5}, "tile: val_share \\+ test_share must leave a share"),
        ({"evaluate__cover_bins": [0, 0.5, 0.4, 1]}, "evaluate: cover_bins .* must rise"),
        ({"evaluate__cover_bins": [0.1, 1]}, "evaluate: cover_bins .* must start at 0 and end at 1"),
        ({"register__min_gain": {"psnr": 0.1}}, r"register\.min_gain\.psnr.*: got 'psnr'"),
        ({"register__min_gain": {}}, r"register\.min_gain: got \{\}: .*at least 1"),
    ],
)
def test_what_is_refused_is_told_by_its_dotted_path(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read(tmp_path, **changes)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, train__steps=0, seed=-1, download="gone")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not YAML"), ("- a\n", "the file: got"), ("", "the file: got None")]
)
def test_a_file_that_holds_no_sections_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(SettingsError, match=rf"params\.yaml: {message}"):
        read_settings(tmp_path / "params.yaml")


def test_an_absent_file_says_where_to_run() -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: no settings there; run in the project's root"):
        read_settings(Path("nowhere.yaml"))


def test_settings_cannot_be_changed_after_reading(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        read(tmp_path).train.steps = 5


def surface() -> dict[str, object]:
    """Return every key with its default; None stands for `must be given`."""
    found: dict[str, object] = {}
    for name, field in Settings.model_fields.items():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            found[name] = field.default
            continue
        for key, inner in field.annotation.model_fields.items():
            default = inner.get_default(call_default_factory=True)
            found[f"{field.alias or name}.{key}"] = None if default is PydanticUndefined else default
    return found


SURFACE: dict[str, object] = {
    "seed": 0,
    "cluster": "",
    "download.num_workers": 2,
    "download.cluster": "",
    "download.max_attempts": 4,
    "download.retry_wait_seconds": 1.0,
    "validate.num_workers": 2,
    "validate.cluster": "",
    "validate.min_accepted": 1,
    "validate.required_optical_bands": ("B02", "B03", "B04", "B08", "B11", "B12"),
    "validate.required_sar_bands": ("VV", "VH"),
    "validate.label_codes_max": 254,
    "validate.max_nodata_share": 0.5,
    "validate.min_overlap_share": 0.9,
    "validate.max_gap_days": 30.0,
    "validate.max_gsd_ratio": 4.0,
    "coregister.num_workers": 2,
    "coregister.cluster": "",
    "coregister.optical_bands": ("B02", "B03", "B04", "B08", "B11", "B12"),
    "coregister.extra_optical_bands": (),
    "coregister.sar_bands": ("VV", "VH"),
    "coregister.label_gsd_m": None,
    "coregister.max_shift_px": 8.0,
    "coregister.min_shift_px": 0.25,
    "coregister.window_px": 96,
    "coregister.min_agreement": 0.35,
    "coregister.max_rmse_px": 1.0,
    "coregister.max_error_px": 0.5,
    "cloudmask.num_workers": 2,
    "cloudmask.cluster": "",
    "cloudmask.method": "given_or_simple",
    "cloudmask.product_level": "l1c",
    "cloudmask.dilation_px": 2,
    "cloudmask.compare_with": None,
    "cloudmask.min_agreement": 0.0,
    "tile.num_workers": 2,
    "tile.cluster": "",
    "tile.size_px": 128,
    "tile.stride_px": 128,
    "tile.max_nodata_share": 0.2,
    "tile.classes": None,
    "tile.split": "region",
    "tile.shared_regions": False,
    "tile.val_share": 0.15,
    "tile.test_share": 0.25,
    "train.architecture": "cgm2net",
    "train.network_size": "tiny",
    "train.steps": 400,
    "train.batch_size": 16,
    "train.crop_px": 64,
    "train.learning_rate": 0.002,
    "train.warmup_steps": 50,
    "train.weight_decay": 0.02,
    "train.gradient_clip": 1.0,
    "train.ema_decay": 0.99,
    "train.precision": "32-true",
    "train.devices": 1,
    "train.num_passes": 1,
    "train.recompute": False,
    "train.num_threads": 2,
    "train.num_loader_workers": 0,
    "train.log_every_steps": 20,
    "train.checkpoint_every_steps": 40,
    "train.validate_every_steps": 200,
    "train.task_weights": "fixed",
    "train.restoration_weight": 1.0,
    "train.segmentation_weight": 0.5,
    "train.cloud_weight": 4.0,
    "train.restoration": True,
    "train.interaction": True,
    "train.fusion": True,
    "train.classes_to_image": True,
    "train.image_to_classes": True,
    "train.cloud_guidance": True,
    "train.soft_mask": True,
    "train.sar": True,
    "evaluate.batch_size": 8,
    "evaluate.cloud_threshold": 0.5,
    "evaluate.cover_bins": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "evaluate.num_pictures": 3,
    "evaluate.num_threads": 2,
    "register.model_name": "cgm2net",
    "register.min_gain": {"cloudy/psnr": 0.0, "cloudy/miou": 0.0},
    "register.min_chance": 0.9,
    "register.max_loss": {"clear/psnr": 0.5, "clear/miou": 0.02},
    "register.max_class_loss": 0.1,
    "monitor.max_psi": 0.25,
    "monitor.max_chance": 0.01,
    "monitor.min_scenes": 6,
}


def test_the_surface_grows_only_on_purpose() -> None:
    assert surface() == SURFACE


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("coregister", "optical_bands", ["B02", "B04"], "must name the same bands"),
        ("coregister", "sar_bands", ["VV"], "must name the same bands"),
        ("tile", "classes", ["a", "b"], "label_codes_max 5 must be 1, the last code of tile.classes"),
        ("tile", "classes", ["a", "a"], "hold a name twice"),
        ("cloudmask", "method", "s2cloudless", "add B01, B05, B8A, B09, B10 to coregister.extra_optical_bands"),
        ("cloudmask", "compare_with", "s2cloudless", "cloudmask.compare_with s2cloudless needs bands B01"),
        ("cloudmask", "compare_with", "given_or_simple", "compare_with"),
        ("cloudmask", "min_agreement", 0.9, "min_agreement 0.9 needs compare_with"),
    ],
)
def test_sections_must_agree(section, key, value, message):
    params = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
    params[section][key] = value
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate(params)


def test_a_cloud_method_may_take_its_bands_from_a_file_of_its_own() -> None:
    params = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
    params["coregister"]["extra_optical_bands"] = ["B01", "B05", "B8A", "B09", "B10"]
    params["cloudmask"] = {"method": "s2cloudless", "compare_with": "csmask"}
    assert Settings.model_validate(params).cloudmask.compare_with == "csmask"


def test_s2cloudless_knows_one_product_level_and_no_method_is_its_own_second() -> None:
    with pytest.raises(ValidationError, match="s2cloudless knows L1C alone, product_level is l2a"):
        CloudmaskSettings(method="simple", compare_with="s2cloudless", product_level="l2a")
    with pytest.raises(ValidationError, match="compare_with simple is method itself"):
        CloudmaskSettings(method="simple", compare_with="simple")


@pytest.mark.parametrize(
    ("method", "have", "missing"),
    [
        ("csmask", ("B02", "B03", "B04", "B08"), []),
        ("csmask", ("blue", "green", "red"), ["nir"]),
        ("simple", ("blue", "B04"), ["B02"]),
        ("given", (), []),
    ],
)
def test_bands_that_a_cloud_method_would_miss(method: str, have: tuple[str, ...], missing: list[str]) -> None:
    assert missing_cloud_bands(method, have) == missing
