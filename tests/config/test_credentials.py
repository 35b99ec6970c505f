"""No credential lands on disk: not from a command line, not from a config, not from the environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emorec.cli import main
from emorec.config.credentials import check_config, check_words
from emorec.errors import UserError
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

HEX = "0123456789abcdef0123456789abcdef01234567"  # a key of W&B, or a commit
WEB_TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
VALUES = {
    "wandb": HEX,
    "wandb of a server of one's own": f"local-{HEX}",
    "wandb behind a word": f"wandb-{HEX}",
    "wandb behind a slash": f"key/{HEX}",
    "wandb of the newer form": "wandb_v1_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
    "hugging face": "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "github": "ghp_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
    "github, fine grained": "github_pat_11ABCDEFG0123456789_abcdefghijklmnop",
    "json web token": WEB_TOKEN,
    "address": "https://somebody:pass4word@example.org/corpus",
}
SECRET_WORDS = [
    "+api_key=x",
    "++logger.wandb.api_key=x",
    "+logger.wandb.apikey=x",
    "+wandb_api_key=x",
    "+x.wandb_key=x",
    "+logger.wandb.WANDB_API_KEY=x",
    "+hf-token=x",
    "+encoder.text.token=x",
    "+dataset.password=x",
    "+logger={wandb:{api_key:x}}",
    "+secret=a,b",
    "+aws_secret_access_key=x",
    "+credentials.value=x",
    "--api-key=x",
]


@pytest.fixture
def root(empty_root: Path) -> Path:
    """Without features, so that what is written is seen."""
    return empty_root


def words_with(value: str) -> list[list[str]]:
    return [
        [f"notes={value}"],
        [f"notes='my key is {value}'"],
        [f"tags=[a,{value}]"],
        ["-m", f"notes=a,{value}"],
        [f"+anything={{deep:{value}}}"],
        [value],
        [f"{value}=1"],
    ]


@pytest.fixture(autouse=True)
def _no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("form", range(len(words_with(""))))
def test_a_value_that_looks_like_a_credential_is_refused_and_not_repeated(value: str, form: int) -> None:
    with pytest.raises(UserError, match="expected no credential") as caught:
        check_words(words_with(value)[form])
    assert value not in str(caught.value)
    assert "WANDB_API_KEY" in str(caught.value)


@pytest.mark.parametrize("word", SECRET_WORDS)
def test_a_name_of_a_credential_is_refused_and_named(word: str) -> None:
    with pytest.raises(UserError) as caught:
        check_words(["seed=0", word])
    assert word.partition("=")[0].lstrip("+-") in str(caught.value)


def test_the_value_of_a_variable_that_holds_a_credential_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABORATORY_TOKEN", "not-of-any-known-form")
    with pytest.raises(UserError, match="notes looks like the value of LABORATORY_TOKEN") as caught:
        check_words(["notes=not-of-any-known-form"])
    assert "not-of-any" not in str(caught.value)


def test_all_credentials_are_named_at_once() -> None:
    with pytest.raises(UserError, match=r"notes looks like .*; tags looks like"):
        check_words([f"notes={HEX}", "seed=0", f"tags=[{VALUES['aws']}]"])


@pytest.mark.parametrize(
    "word",
    [
        f"encoder.text.revision={HEX}",
        f"encoder.text.revision='{HEX}'",
        f"encoder.text.revision={HEX},{HEX[::-1]}",
        f"encoder.text.model=sentence-transformers/all-MiniLM-L6-v2@{HEX}",
        f"encoder.text.model=/cache/models--a--b/snapshots/{HEX}",
        f"+encoder.text={{model: a/b, revision: {HEX}}}",
        f"+git_commit={HEX}",
        "run=0123456789ab",
        f"run={'0123456789abcdef' * 4}",
        "+encoder.text.max_tokens=128",
        "+encoder.text.pad_token=x",
        "+encoder.text.cls_token=x",
        "encoder.text.pooling=token",
        "fusion.pooling=attention",
        "dataset.root=/data/secrets_of_emotion/hf_hub/password",
        "encoder.text.model=hf-internal-testing/tiny-random-bert",
        "sweep.name=20260101-120000-abcdef",
        "notes='keys and tokens, and a secret'",
        "tags=[key,token]",
        "--config-dir=/home/somebody/keys",
        "optimizer.lr=1e-3",
        "-m",
    ],
)
def test_what_is_no_credential_is_taken(word: str) -> None:
    check_words([word])


@pytest.mark.parametrize(
    "command", ["train", "extract", "evaluate", "predict", "export", "report", "data", "cache", "runs", "tune"]
)
@pytest.mark.parametrize("word", [f"notes={HEX}", "+api_key=my-own-value"])
def test_every_command_refuses_before_anything_is_written(
    command: str, word: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from emorec.cli import COMMANDS

    if command not in COMMANDS:
        pytest.skip(f"there is no {command}")
    assert main([command, "check", word] if command == "data" else [command, word]) == 2
    message = capsys.readouterr().err
    assert word.partition("=")[0].lstrip("+") in message
    assert word.partition("=")[2] not in message
    assert [path.name for path in root.iterdir()] == ["data"]


def test_a_config_of_a_lab_with_a_credential_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "configs" / "logger"
    folder.mkdir(parents=True)
    (folder / "ours.yaml").write_text("ours:\n  project: x\n  api_key: not-of-any-known-form\n")
    (folder / "indirect.yaml").write_text("indirect:\n  header: Bearer ${oc.env:LABORATORY_TOKEN}\n")
    words = ["train", "--config-dir", str(folder.parent)]
    assert main([*words, "logger=ours"]) == 2
    message = capsys.readouterr().err
    assert "logger.ours.api_key" in message
    assert "not-of-any" not in message
    monkeypatch.setenv("LABORATORY_TOKEN", "also-of-no-known-form")
    assert main([*words, "logger=indirect"]) == 2
    message = capsys.readouterr().err
    assert "logger.indirect.header: expected an environment variable that is known to hold no credential" in message
    assert "got LABORATORY_TOKEN" in message
    assert "also-of-no" not in message
    assert [path.name for path in root.iterdir()] == ["data"]


def test_a_name_without_a_value_in_a_config_is_none() -> None:
    check_config({"encoder": {"text": {"token": None, "use_auth_token": False, "password": ""}}, "seed": 0})
    with pytest.raises(UserError, match=r"a\.token"):
        check_config({"a": {"token": 12345678}})


def test_our_own_configs_have_no_place_for_a_key() -> None:
    from emorec.config.composition import composer, parse
    from emorec.config.schema import TrainConfig

    for word in ("logger=[wandb,tensorboard]", "encoder/text=minilm", "encoder/audio=wavlm_base_plus"):
        with composer(parse("train", [word]), TrainConfig) as open_composer:
            check_config(open_composer.compose([word]).values)


# ------------------------------------------------------------------------------------------------ canaries

CANARIES = {
    "WANDB_API_KEY": "ca" * 20,
    "HF_TOKEN": "hf_CanaryCanaryCanaryCanaryCanaryCana",
    "AWS_SECRET_ACCESS_KEY": "Canary/Canary+Canary/Canary+Canary/Canary",
}
NETRC = "ab" * 20
BROKEN = """
from emorec.fusion.concat import Concat


class Broken(Concat):
    def forward(self, *arguments, **options):
        raise RuntimeError("out of memory, say")
"""


def _holders(folder: Path, canaries: list[str]) -> list[str]:
    """The files below a folder that hold a canary, except for the one that brings it in."""
    wanted = [canary.encode() for canary in canaries]
    return [
        f"{path.relative_to(folder)}"
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".netrc" and any(canary in path.read_bytes() for canary in wanted)
    ]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 0),
        (["-m", "fusion._target_=emorec.fusion.concat.Concat,of_a_lab.Broken", "sweep.name=two"], 1),
    ],
    ids=["a training", "a multirun of which one job fails"],
)
def test_no_key_of_the_environment_is_written_anywhere(
    words: list[str], code: int, train_overrides: list[str], tmp_path: Path
) -> None:
    for name in ("home", "work", "root", "temporary"):
        (tmp_path / name).mkdir()
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {NETRC}\n")
    netrc.chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path / "home"), "EMOREC_ROOT": str(tmp_path / "root"), "OMP_NUM_THREADS": "1"}
    environment |= {"TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": f"{REPOSITORY}:{tmp_path}", **CANARIES}
    (tmp_path / "of_a_lab.py").write_text(BROKEN)
    environment["EMOREC_TRUST"] = "of_a_lab"
    logger = ["logger=[wandb,tensorboard]", "logger.wandb.mode=offline"]
    command = [sys.executable, "-m", "emorec", "train", *train_overrides, *logger, *words]
    done = subprocess.run(
        command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert list((tmp_path / "root").rglob("*.wandb"))
    assert code or list((tmp_path / "root").rglob("events.*"))
    canaries = [*CANARIES.values(), NETRC]
    assert _holders(tmp_path, canaries) == []
    assert not any(canary in done.stdout + done.stderr for canary in canaries)
    assert list((tmp_path / "work").iterdir()) == []
    assert [path for path in (tmp_path / "home").rglob("*") if "wandb" in path.name] == []
