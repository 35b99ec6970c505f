"""Configs, checkpoints and folders of strangers: nothing of them is run, emptied, resolved or unfolded without end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emorec.cli import main
from emorec.config.composition import Composed, compose_once, composer, parse
from emorec.config.credentials import environment_value
from emorec.config.schema import SCHEMAS, TrainConfig
from emorec.config.validation import validated
from emorec.encoders.checkpoint import check_no_code
from emorec.errors import UserError
from emorec.runs.checkpoint_store import stored_config
from emorec.storage.documents import read_json, read_yaml, yaml_text
from emorec.training.attempt import keep_sweep
from emorec.training.processes import _without_working_directory
from tests.conftest import REPOSITORY

LOGGING = """
hydra:
  verbose: true
  hydra_logging: &logging
    version: 1
    handlers:
      file: {{class: logging.FileHandler, filename: {precious}, mode: w}}
      code: {{"()": os.system, command: touch {canary}}}
    root: {{level: INFO, handlers: [file, code]}}
    disable_existing_loggers: false
  job_logging: *logging
  help: {{app_name: x, header: x, template: "$CONFIG", footer: x}}
  launcher: {{_target_: os.abort}}
  sweeper: {{_target_: os.abort}}
  callbacks: {{evil: {{_target_: os.system, command: touch {canary}}}}}
"""
LAUGHS = "\n".join(["a0: &a0 [lol, lol]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))])
SECRETS = (
    *("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    *("AWS_SESSION_TOKEN", "GITHUB_TOKEN", "GH_PAT", "OPENAI_API_KEY", "KAGGLE_KEY", "COMET_API_KEY"),
    *("NEPTUNE_API_TOKEN", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD", "MYSQL_PWD", "DATABASE_URL"),
    *("AZURE_STORAGE_CONNECTION_STRING", "SMTP_PASS", "SSH_PASSPHRASE", "EMOREC_API_KEY", "OF_NO_KNOWN_NAME"),
)


@pytest.fixture
def root(empty_root: Path) -> Path:
    """Without features, so that what is written is seen."""
    return empty_root


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


# ------------------------------------------------------------------------------------------------ Hydra


@pytest.mark.parametrize(
    "flags", [["--help"], ["--cfg", "all"], ["--info", "config"], ["-sc", "query=bash"]], ids=" ".join
)
def test_no_flag_builds_what_a_foreign_config_names(
    flags: list[str], canary: Path, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    precious, lab = canary.with_name("precious"), canary.with_name("lab")
    precious.write_text("precious")
    (lab / "experiment").mkdir(parents=True)
    (lab / "experiment" / "t.yaml").write_text(LOGGING.format(precious=precious, canary=canary))
    monkeypatch.setattr("sys.argv", ["emorec"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("COMP_LINE", "emorec experiment=t")
    assert main(["train", *flags, "--config-dir", str(lab), "experiment=t"]) == 0
    assert capsys.readouterr().out
    assert precious.read_text() == "precious"
    assert not canary.exists()
    assert [path.name for path in root.iterdir()] == ["data"]


@pytest.mark.parametrize("scheme", ["pkg", "structured"])
def test_a_search_path_imports_no_package_that_is_not_trusted(
    scheme: str, canary: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (canary.with_name("planted_package")).mkdir()
    (canary.with_name("planted_package") / "__init__.py").write_text(f"open({str(canary)!r}, 'w').close()")
    monkeypatch.syspath_prepend(canary.parent)
    assert main(["train", f"hydra.searchpath=[{scheme}://planted_package]", "--cfg", "job"]) == 2
    assert "expected file://… or a trusted package" in capsys.readouterr().err
    assert not canary.exists()


def test_a_folder_of_configs_may_have_any_name(tmp_path: Path) -> None:
    name = "it's a=b, {c"
    (tmp_path / name / "fusion").mkdir(parents=True)
    (tmp_path / name / "fusion" / "ours.yaml").write_text("_target_: ours.Fusion\n")
    composed = compose_once("train", TrainConfig, ["--config-dir", str(tmp_path / name), "fusion=ours"])
    assert composed is not None
    assert composed.values["fusion"] == {"_target_": "ours.Fusion"}


# ------------------------------------------------------------------------------------------------ YAML and JSON


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "values with aliases written out"),
        ("a: &a [*a]", "values with aliases written out"),
        ("a: " + "[" * 500 + "]" * 500, "expected at most 64 levels"),
        ("\n".join(" " * n + "a:" for n in range(500)), "expected at most 64 levels"),
        ("x: 1" + " " * 2_000_000, "at most 1000000 bytes"),
        ("a: [", "expected YAML"),
        ("a: *nothing", "expected YAML"),
        ("a: \xff\0", "expected YAML"),
        ("a: !!python/object/apply:os.system ['true']", "expected YAML"),
        ("a: " + "9" * 5000, "expected YAML"),
        ("- a", "expected a mapping, got list"),
        ("", "expected a mapping, got NoneType"),
    ],
)
def test_a_stored_config_that_is_none_is_refused_in_a_line(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        stored_config(tmp_path)
    assert "config.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_yaml, read_json])
def test_only_ordinary_files_of_utf_8_are_read(read: object, tmp_path: Path) -> None:
    assert callable(read)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "latin").write_bytes(b"a: caf\xe9")
    for name, reason in (("fifo", "a regular file"), ("latin", "expected UTF-8")):
        with pytest.raises(UserError, match=reason):
            read(tmp_path / name)
    with pytest.raises(UserError, match="a regular file"):
        read(Path("/dev/zero"))


def test_json_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(UserError, match="expected JSON, got too many levels"):
        read_json(tmp_path / "a.json")


def test_what_is_written_is_read_back_and_stays_a_text(tmp_path: Path) -> None:
    shared = ["a", "1e5", "136787321e83", "${oc.env:HOME}", "${", "null", "é", "a: b"]
    values = {"one": shared, "two": shared, "number": 1e-5, "none": None, "nested": {"text": "yes", "truth": True}}
    (tmp_path / "config.yaml").write_text(yaml_text(values))
    assert stored_config(tmp_path) == values


@pytest.mark.parametrize(("name", "text"), [("laughs", LAUGHS), ("deep", "a: " + "[" * 500 + "]" * 500)])
def test_a_config_of_a_lab_that_unfolds_is_refused(
    name: str, text: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lab" / "logger").mkdir(parents=True)
    (tmp_path / "lab" / "logger" / f"{name}.yaml").write_text(text)
    assert main(["train", "--config-dir", str(tmp_path / "lab"), f"logger={name}"]) == 2
    assert f"{name}.yaml" in capsys.readouterr().err
    assert [path.name for path in root.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "form", ["${{a{0}}}${{a{0}}}", "['${{a{0}}}', '${{oc.select:a{0}}}']", "{{b: '${{a{0}}}', c: '${{.b}}'}}"]
)
def test_interpolations_that_unfold_are_refused(form: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    lines = ["a0: laugh", *(f"a{number + 1}: {form.format(number)}" for number in range(60))]
    (tmp_path / "experiment" / "t.yaml").write_text("\n".join(["# @package _global_", *lines]))
    with pytest.raises(UserError, match="expected interpolations of at most 100000 values"):
        compose_once("train", TrainConfig, ["--config-dir", str(tmp_path), "experiment=t"])


@pytest.mark.parametrize("word", ["notes=" + "[" * 70 + "]" * 70, "+" + ".".join(["a"] * 90) + "=1"])
def test_an_override_that_is_too_deep_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="levels"):
        compose_once("train", TrainConfig, [word])


# ------------------------------------------------------------------------------------------------ environment


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("default", [(), ("x",), (None,)])
def test_a_variable_that_may_hold_a_secret_is_not_read(
    name: str, default: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "so-secret-a-value")
    with pytest.raises(UserError, match=f"got {name}") as caught:
        environment_value(name, *default)
    assert "so-secret" not in str(caught.value)


def test_a_harmless_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOREC_SCRATCH", "/scratch")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    assert environment_value("EMOREC_SCRATCH") == "/scratch"
    assert environment_value("WANDB_PROJECT", "emorec") == "emorec"
    assert environment_value("WANDB_PROJECT", None) is None
    with pytest.raises(UserError, match="expected the environment variable WANDB_PROJECT to be set"):
        environment_value("WANDB_PROJECT")


def test_no_flag_and_no_nesting_prints_a_secret(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OF_NO_KNOWN_NAME", "so-secret-a-value")
    monkeypatch.setattr("sys.argv", ["emorec"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    word = "+optimizer.x='${oc.decode:${oc.env:${oc.select:nothing,OF_NO_KNOWN_NAME},x}}'"
    assert main(["train", word, "--cfg", "job", "--resolve"]) == 2
    printed = "".join(capsys.readouterr())
    assert "expected an environment variable" in printed
    assert "OF_NO_KNOWN_NAME" in printed
    assert "so-secret" not in printed


@pytest.fixture(scope="module")
def composed() -> Composed[TrainConfig]:
    with composer(parse("train", []), TrainConfig) as open_composer:
        return open_composer.compose([])


@pytest.mark.parametrize("name", ["${oc.env:WANDB_API_KEY}", "../../elsewhere", "a/b", "", 3])
def test_a_stored_sweep_name_is_never_resolved(
    name: object, composed: Composed[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "so-secret-a-value")
    (tmp_path / "config.yaml").write_text(f"sweep:\n  name: {json.dumps(name)}\n")
    with pytest.raises(UserError, match=r"config\.yaml: sweep\.name: expected") as caught:
        keep_sweep(composed, tmp_path)
    assert "so-secret" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ processes

FORK = """
import sys
del sys.path[0]  # a console script does not have it
import multiprocessing, os
from emorec.training import processes
multiprocessing.set_forkserver_preload = lambda _: None  # torch would take seconds
processes.start_warm_parent()
child = multiprocessing.get_context("forkserver").Process(target=os.getpid)
child.start()
child.join()
"""


def test_the_warm_parent_imports_nothing_from_the_working_directory(canary: Path) -> None:
    work = canary.with_name("work")
    work.mkdir()
    for name in ("random", "socket", "selectors", "tempfile", "json"):
        (work / f"{name}.py").write_text(f"open({str(canary)!r}, 'w').close()\nraise ImportError\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment |= {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", FORK], cwd=work, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not canary.exists()


def test_a_forked_child_gets_no_working_directory_to_import_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for first in ("", str(tmp_path)):
        monkeypatch.setattr("sys.path", [first, "/somewhere"])
        with _without_working_directory():
            assert sys.path == ["/somewhere"]
        assert sys.path == [first, "/somewhere"]


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize(
    ("name", "settings", "got"),
    [
        ("config.json", {"model_type": "bert", "auto_map": {"AutoModel": "own.Own"}}, "auto_map"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.Own", None]}}, "auto_map"),
        ("preprocessor_config.json", {"deeper": [{"auto_map": "own.Own"}]}, "auto_map"),
        ("config.json", {"attn_implementation": "someone/kernel"}, "a kernel of the hub, attn_implementation"),
        ("config.json", {"vision_config": {"_attn_implementation": "a/b@v1:f"}}, "a kernel of the hub"),
        ("config.json", {"_attn_implementation_internal": {"text": "a/b"}}, "a kernel of the hub"),
        ("adapter_config.json", {"base_model_name_or_path": "someone/other"}, "an adapter"),
        ("tokenizer_config.json", [], "expected a JSON object"),
    ],
)
def test_a_model_folder_with_code_of_its_own_is_refused(name: str, settings: object, got: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "attn_implementation": "sdpa"}))
    check_no_code(str(tmp_path), "main")
    (tmp_path / name).write_text(json.dumps(settings))
    with pytest.raises(UserError, match=got) as caught:
        check_no_code(str(tmp_path), "main")
    assert name in str(caught.value)


# ------------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize("command", [*SCHEMAS, "cache", "runs"])
@pytest.mark.parametrize("word", ["a\0b", "notes=a\0b", "dataset.root=/tmp/\udcff", "--config-dir=/\udcff"])
def test_words_that_no_file_can_hold_are_refused(
    command: str, word: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "ls", word]) == 2
    message = capsys.readouterr().err
    assert "the command line: " in message
    assert "expected a text " in message
    assert message.count("\n") == 1
    assert [path.name for path in root.iterdir()] == ["data"]


def test_values_that_no_annotation_takes_are_refused_wherever_they_stand(composed: Composed[TrainConfig]) -> None:
    deep = {"text": "a\0b", "many": [1.0, float("inf")], "none": float("nan"), "path": "/\udcff"}
    values = {**composed.values, "launcher": {"name": "slurm", "extra": deep}}
    with pytest.raises(UserError, match="4 problem") as caught:
        validated(TrainConfig, values)
    for key, reason in (("text", "without NUL"), ("many", "a finite number"), ("none", "finite"), ("path", "UTF-8")):
        assert f"launcher.extra.{key}: expected" in str(caught.value)
        assert reason in str(caught.value)
