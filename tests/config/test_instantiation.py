"""A config can make objects of trusted classes alone."""

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from emorec.config.composition import Composed, composer, parse
from emorec.config.instantiation import TRUST_VARIABLE, instantiate
from emorec.config.locations import ROOT_VARIABLE, config_folder, root_folder
from emorec.config.schema import SCHEMAS, CommandConfig, TrainConfig
from emorec.errors import UserError

CONFIGS = config_folder()
GROUP_FILES = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*/*.yaml"))
PACKAGE = "laboratory_of_a_test"


def compose(*overrides: str, command: str = "train") -> Composed[CommandConfig]:
    with composer(parse(command, overrides), SCHEMAS.get(command, CommandConfig)) as open_composer:
        return open_composer.compose(overrides)


def build(target: str, where: str = "part", **arguments: Any) -> Any:
    return instantiate({"_target_": target, **arguments}, where=where, kind=object)


class Holder:
    """Takes anything."""

    def __init__(self, *, parts: Any = None) -> None:
        self.parts = parts


HOLDER = f"{__name__}.Holder"


@pytest.fixture
def _trusted_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "tests")


def test_a_class_of_emorec_is_built_with_its_arguments() -> None:
    built = build("emorec.media.audio.AudioSettings", sample_rate=8_000)
    assert (type(built).__name__, built.sample_rate) == ("AudioSettings", 8_000)


def test_a_class_of_the_short_list_is_built() -> None:
    import torch

    weight = torch.nn.Parameter(torch.zeros(2))
    node = {"_target_": "torch.optim.AdamW", "lr": 0.5}
    built = instantiate(node, where="optimizer", kind=torch.optim.Optimizer, params=[weight])
    assert isinstance(built, torch.optim.AdamW)
    assert built.defaults["lr"] == 0.5


@pytest.mark.usefixtures("_trusted_tests")
def test_nodes_inside_a_node_are_built_first() -> None:
    inner = {"_target_": "emorec.media.audio.AudioSettings", "sample_rate": 8_000}
    built = build(HOLDER, parts=[inner, {"deep": inner}, "plain"])
    assert built.parts[0].sample_rate == 8_000
    assert built.parts[1]["deep"].sample_rate == 8_000
    assert built.parts[2] == "plain"


def test_nodes_of_a_dataclass_are_made_into_it() -> None:
    media = build("emorec.encoders.log_mel.LogMel", media={"sample_rate": 8_000}).media
    assert (type(media).__name__, media.sample_rate) == ("AudioSettings", 8_000)


def test_interpolations_are_resolved() -> None:
    composed = compose("model.dropout=0.125")
    assert composed.values["fusion"]["dropout"] == 0.125
    assert isinstance(composed.config, TrainConfig)
    assert composed.config.fusion.arguments["dropout"] == 0.125


REFUSED = [
    "os.system",
    "builtins.eval",
    "builtins.dict",
    "pathlib.Path",
    "subprocess.Popen",
    "torch.nn.Linear",
    "torch.optim.lbfgs.LBFGS",  # not by its public name
    "torch.optim.swa_utils.AveragedModel",
    "torch.utils.data.DataLoader",
    "torchmetrics.MetricCollection",
    "lightning.pytorch.Trainer",
    "torch.load",
    "emorec.storage.atomic.os.system",  # through a module that a module of ours has imported
    "emorec.storage.digests.json.loads",
    "emorec.config.instantiation.importlib.import_module",
    "emorec.storage.digests.Path",  # a class that a module of ours has imported
    "emorec.models.projection.nn.Linear",
    "emorec.encoders.encoder.Tensor",
    "emorec.sweeps.expansion.BasicSweeper",
    "emorec.storage.atomic.write_text",  # ours, but a function
    "emorec.config.instantiation.instantiate",
    "emorec.storage.atomic",  # ours, but a module
    "emorec.storage.atomic.os",
    "emorec",
    "emorecs.Thing",  # not ours, but spelt nearly so
    "emorec_extras.thing.Thing",
    ".emorec.storage.claims.Claim",
    "AudioSettings",
    "",
]


@pytest.mark.parametrize("target", REFUSED)
def test_what_is_not_a_trusted_class_is_refused(target: str) -> None:
    with pytest.raises(UserError) as caught:
        build(target)
    assert repr(target) in str(caught.value)


def test_a_refusal_says_how_to_add_a_package() -> None:
    with pytest.raises(UserError, match=r"class of emorec\.datasets, .*EMOREC_TRUST.*'os\.system'"):
        build("os.system", command="true")


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "emorec.storage.atomic.os.system", "emorec.storage.atomic.write_bytes", "pathlib.Path.touch"),
        "emorec.sweeps.process.JobProcess",
    ],
)
@pytest.mark.parametrize("depth", ["top", "argument", "list", "mapping", "where a text is expected"])
@pytest.mark.usefixtures("_trusted_tests")
def test_what_is_refused_does_not_run_wherever_it_stands(tmp_path: Path, target: str, depth: str) -> None:
    trace = tmp_path / "trace"
    evil = {"_target_": target}
    evil |= {"command": f"touch {trace}"} if target.endswith("system") else {"path": str(trace), "data": b"x"}
    node = {
        "top": evil,
        "argument": {"_target_": HOLDER, "parts": evil},
        "list": {"_target_": HOLDER, "parts": [1, [evil]]},
        "mapping": {"_target_": HOLDER, "parts": {"deep": {"er": evil}}},
        "where a text is expected": {"_target_": "emorec.media.source.Source", "modality": evil},
    }[depth]
    with pytest.raises(UserError, match="_target_"):
        instantiate(node, where="part", kind=object)
    assert not trace.exists()


def test_a_class_that_does_not_exist_says_so() -> None:
    for target in ("emorec.fusion.nothing.Nothing", "emorec.fusion.concat.Nothing"):
        with pytest.raises(UserError, match=rf"expected a class that can be imported, got '{re.escape(target)}'"):
            build(target)


def test_a_node_without_a_target_says_where_it_is() -> None:
    with pytest.raises(UserError, match=r"encoder\.audio: expected a _target_, got \['dim'\]"):
        instantiate({"dim": 3}, where="encoder.audio", kind=object)


def test_a_wrong_argument_names_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"media\.sample_rat: unknown key; did you mean media\.sample_rate\?"):
        build("emorec.media.audio.AudioSettings", where="media", sample_rat=8_000)


def test_a_wrong_argument_that_is_near_none_names_those_the_class_takes() -> None:
    with pytest.raises(UserError, match=r"media\.speed: unknown key; expected one of .*minimum_seconds, .*sample_rate"):
        build("emorec.media.audio.AudioSettings", where="media", speed=8_000)


def test_all_wrong_arguments_are_reported_at_once() -> None:
    with pytest.raises(UserError) as caught:
        build("emorec.media.audio.AudioSettings", where="media", sample_rate="fast", minimum_seconds=-1, trimm=40)
    for line in (
        "media.trimm: unknown key; did you mean media.trim?",
        "media.sample_rate: expected a whole number of at least 4000, got 'fast'",
        "media.minimum_seconds: expected a number of at least 0, got -1",
    ):
        assert line in str(caught.value)


def test_a_class_of_another_kind_is_refused() -> None:
    from emorec.losses.loss import Loss

    node = {"_target_": "emorec.media.audio.AudioSettings"}
    with pytest.raises(UserError, match="loss: expected a class derived from Loss, got AudioSettings"):
        instantiate(node, where="loss", kind=Loss)


def test_a_missing_argument_names_those_the_class_takes() -> None:
    with pytest.raises(UserError, match=r"loss: .*'task'.*Focal takes .*gamma"):
        build("emorec.losses.focal.Focal", where="loss", gamma=1.0)


@pytest.mark.usefixtures("_trusted_tests")
def test_a_wrong_argument_inside_a_node_names_its_key() -> None:
    wrong = {"_target_": "emorec.media.audio.AudioSettings", "rate": 1}
    with pytest.raises(UserError, match=r"part\.parts\[1\]\.rate: unknown key"):
        build(HOLDER, parts=[None, wrong])


@pytest.fixture
def laboratory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of a lab, with a class of its own and one that it imported."""
    package = tmp_path / PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text(
        "import subprocess\nfrom pathlib import Path\n\n\nclass Part:\n"
        "    def __init__(self, *, width):\n        self.width = width\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    return PACKAGE


@pytest.mark.parametrize("value", [PACKAGE, f"another_one, {PACKAGE}", f"another_one:{PACKAGE}", f"  {PACKAGE} "])
def test_the_environment_variable_adds_a_package(laboratory: str, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    with pytest.raises(UserError, match="EMOREC_TRUST"):
        build(f"{laboratory}.part.Part", width=3)
    monkeypatch.setenv(TRUST_VARIABLE, value)
    assert build(f"{laboratory}.part.Part", width=3).width == 3


@pytest.mark.parametrize("name", ["Path", "subprocess.Popen"])
def test_what_a_trusted_package_imports_is_not_trusted(
    laboratory: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, laboratory)
    with pytest.raises(UserError, match=laboratory):
        build(f"{laboratory}.part.{name}")


@pytest.mark.parametrize("value", ["", " ", ",", ":"])
def test_an_empty_trust_variable_trusts_no_package(
    laboratory: str, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, value)
    for target in (f"{laboratory}.part.Part", "os.system", ".os.system"):
        with pytest.raises(UserError):
            build(target)


def test_the_root_is_the_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "here"))
    assert root_folder() == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(ROOT_VARIABLE, "~/there")
    assert root_folder() == tmp_path / "there"
    assert compose().values["paths"]["cache"] == str(tmp_path / "there" / "cache")


def test_without_the_environment_the_root_is_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    assert root_folder().is_absolute()


# Those that need a checkpoint or a file are built in the tests of their class.
ENCODERS = [
    name
    for name in GROUP_FILES
    if name.startswith("encoder/")
    and not name.endswith("/none")
    and not {"model", "path"} & set(OmegaConf.load(CONFIGS / f"{name}.yaml"))
]


def test_encoders_of_each_modality_are_among_those_that_are_built() -> None:
    assert {"encoder/text/hashed_ngrams", "encoder/audio/log_mel", "encoder/video/frame_statistics"} <= set(ENCODERS)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_yaml_is_built_and_states_what_identifies_its_features(name: str) -> None:
    from emorec.encoders.encoder import Encoder

    group, _, choice = name.rpartition("/")
    modality = group.partition("/")[2]
    node = compose(f"{group}={choice}").values["encoder"][modality]
    if "opensmile" in choice:
        pytest.importorskip("opensmile", reason="the extra `opensmile` is not installed")
    encoder = instantiate(node, where=f"encoder.{modality}", kind=Encoder)  # type: ignore[type-abstract]
    assert encoder.modality == modality
    assert encoder.dim > 0
    spec = encoder.spec()
    assert spec["encoder"] == type(encoder).__name__
    assert spec["dtype"] == node.get("dtype", spec["dtype"])  # pixels and words have types of their own


@pytest.mark.parametrize("modality", ["text", "audio", "video"])
def test_none_leaves_a_modality_out(modality: str) -> None:
    composed = compose(f"encoder/{modality}=none")
    assert composed.values["encoder"][modality] is None
    assert sum(node is None for node in composed.values["encoder"].values()) == 1
