"""The ids of runs never change: command lines whose ids are written down, and keys that leave the id alone."""

from collections.abc import Sequence

import pytest

from emorec.config.composition import composer, parse
from emorec.config.schema import SCHEMAS
from emorec.runs.identity import RunIdentity, identify
from emorec.tuning.trials import OWN_KEYS

Case = tuple[str, tuple[str, ...], tuple[str, ...], str, str, str]
# (command, overrides, modalities with a local model, run id, group id, digest)
GOLDEN: list[Case] = [
    (
        "train",
        (),
        (),
        "3a2afb35c1c5",
        "b0c22080fc9a",
        "3a2afb35c1c59cb9a4e0643c28cb5c937ed0a8fc332f3c88d0e6c754f45eb878",
    ),
    (
        "train",
        ("seed=7", "fusion=gated", "loss=focal", "loss.gamma=1.5"),
        (),
        "4b24fa0c6fa8",
        "2bb122720f15",
        "4b24fa0c6fa8d7f18e8accc3a0e5d005a4d7aa9d50730ae389e1855c9a77e866",
    ),
    (
        "train",
        ("fusion=self_attention", "fusion.heads=2", "model.hidden=64", "scheduler=warmup_cosine"),
        (),
        "41871962b106",
        "843be31f5d41",
        "41871962b10683c0dbeea21c27c7b120ebe69389f5572ae36c480f899b4521bd",
    ),
    (
        "train",
        ("experiment=smoke", "test=false", "tags=[a]", "notes=try", "paths.cache=/elsewhere"),
        (),
        "2ac773c88105",
        "56380cf544c5",
        "2ac773c88105ff9bbdfa509058b09ed44ca64ee0d3454980b30fa771b710eb31",
    ),
    (
        "train",
        ("experiment=meld_minilm", "encoder.text.model=/models/minilm"),
        ("text",),
        "e3769fd1fa2e",
        "76e43eb755aa",
        "e3769fd1fa2ebccba331f19f0a35bc9f8ecb659ff26548309ee83a43fc1c4104",
    ),
    (
        "train",
        ("experiment=ravdess_compare", "dataset.fold=3", "dataset.root=/corpora/ravdess"),
        (),
        "42e5d202299a",
        "b1ef03391929",
        "42e5d202299ad0db96ca1167308ef597d99e8631ceabab0785d30121d7fc87b7",
    ),
    (
        "train",
        ("experiment=ravdess_mfcc", "encoder.audio.views=2", "encoder.audio.media.trim=40"),
        (),
        "54cd63607e11",
        "a8d614142b3d",
        "54cd63607e11f43cdbd673663a52af682817315641355fb5801360948246ca89",
    ),
    (
        "train",
        ("dataset=iemocap", "dataset.task=valence", "loss=ccc", "dataset.classes=6", "labels=none"),
        (),
        "9bf6d8546517",
        "bee616339eb9",
        "9bf6d85465175b814a1a6dd0a7a550301615767f017ac4418f54b16f84c9ba24",
    ),
    (
        "train",
        ("dataset=custom", "dataset.table=/corpora/mine.csv", "dataset.protocol=group_k_fold", "encoder/video=none"),
        (),
        "85ccc951c7d9",
        "7b7510b42cb2",
        "85ccc951c7d95f79a1e5040138d82ec9f12d2fa520414be16e3c4b69faaee2dd",
    ),
    (
        "train",
        (
            "dataset=ravdess_crema_d",
            "labels=four_emotions",
            "encoder/text=none",
            "encoder/audio=wavlm_base_plus",
            "encoder.audio.layer=all",
        ),
        (),
        "c7e8abc6bd7c",
        "40f7bdc5c7e2",
        "c7e8abc6bd7ce496f4ac5ab8275262e1f986f2404bb18273c0d217b72dcf653c",
    ),
    (
        "train",
        (
            "trainer.devices=2",
            "trainer.precision=bf16-mixed",
            "batch_size_per=device",
            "trainer.patience=null",
            "optimizer.lr=0.01",
            "logger=wandb",
            "launcher=slurm",
        ),
        (),
        "8cf77813f605",
        "dcce6dbd56ce",
        "8cf77813f605ae0e399974c57d530424710406ee2edcc6b578cebdb60b751c9e",
    ),
    (
        "tune",
        (
            "study.name=first",
            "dataset=meld",
            "encoder/audio=precomputed",
            "encoder.audio.path=/f.npz",
            "encoder/video=none",
            "~study.workers",  # younger than the id
        ),
        ("audio",),
        "c8696aef7691",
        "f5384039a423",
        "c8696aef76915983c2d5c48b8848d2f89a46d36db757196cf92b0274ea3ce1ec",
    ),
]


def identity(
    overrides: Sequence[str],
    *,
    command: str = "train",
    local_models: Sequence[str] = (),
    without: Sequence[str] = (),
) -> RunIdentity:
    """The identity of the run of a command line, for a corpus and features with fixed digests."""
    with composer(parse(command, overrides), SCHEMAS[command]) as open_composer:
        config = open_composer.compose(overrides).values
    config = {key: value for key, value in config.items() if key not in without}
    used = [modality for modality in ("text", "audio", "video") if config["encoder"].get(modality) is not None]
    return identify(
        config,
        manifest_digest="0" * 64,
        feature_specs={modality: modality[0].encode().hex() * 32 for modality in used},
        sources={modality: "1" * 64 for modality in used},
        local_models=frozenset(local_models),
    )


@pytest.mark.parametrize("folder", ["/somewhere", "/elsewhere/deeper"])
@pytest.mark.parametrize("case", GOLDEN, ids=[" ".join(case[1]) or "defaults" for case in GOLDEN])
def test_the_ids_of_a_command_line_are_those_written_down(
    case: Case, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOREC_ROOT", folder)
    monkeypatch.setenv("EMOREC_DATA", f"{folder}/corpora")
    command, overrides, local_models, *expected = case
    result = identity(overrides, command=command, local_models=local_models)
    assert [result.run_id, result.group_id, result.digest] == expected


@pytest.fixture(scope="module")
def default() -> RunIdentity:
    return identity([])


@pytest.mark.parametrize(
    "overrides",
    [
        ["logger=wandb"],
        ["logger=[tensorboard,csv]"],
        ["metric=[uar,accuracy]"],
        ["metric.weighted_f1=null"],
        ["launcher=local", "launcher.slots=3"],
        ["launcher=slurm"],
        ["paths.root=/a", "paths.data=/b", "paths.cache=/c", "paths.checkpoints=/d"],
        ["dataset.root=/moved"],
        ["tags=[a,b]", "notes=try"],
        ["checkpoint.every_seconds=0"],
        ["sweep.name=mine"],
        ["test=false", "rerun=true", "on_running=skip", "progress=false"],
        ["extraction.batch_size=3", "extraction.workers=1", "extraction.device=cpu", "extraction.verify=true"],
        ["features.preload=none", "features.mmap=false", "features.resident_bytes=0"],
        ["trainer.threads=1"],
        ["inputs.keep=false", "inputs.workers=5"],
        ["seed=0", "trainer.max_epochs=40", "fusion=concat", "optimizer.lr=0.001"],
        ["experiment=demo_all"],
    ],
    ids=" ".join,
)
def test_keys_that_do_not_change_the_result_leave_the_ids_alone(overrides: list[str], default: RunIdentity) -> None:
    assert identity(overrides) == default


def test_a_trial_of_a_study_is_the_run_that_train_makes_of_the_same_config(default: RunIdentity) -> None:
    assert identity(["study.name=first"], command="tune", without=OWN_KEYS) == default


@pytest.mark.parametrize("overrides", [["seed=1"], ["dataset.fold=1"], ["seed=1", "dataset.fold=2"]], ids=" ".join)
def test_seed_and_fold_change_the_run_and_not_its_group(overrides: list[str], default: RunIdentity) -> None:
    result = identity(overrides)
    assert result.run_id != default.run_id
    assert result.group_id == default.group_id


@pytest.mark.parametrize(
    "override",
    [
        "model.hidden=64",
        "model.normalisation=speaker",
        "optimizer.lr=0.01",
        "optimizer._target_=torch.optim.Adam",
        "scheduler=linear",
        "loss=focal",
        "trainer.devices=2",
        "trainer.precision=bf16-mixed",
        "trainer.max_epochs=41",
        "batch_size=16",
        "encoder/video=none",
        "labels=four_emotions",
        "dataset.limit=96",
    ],
)
def test_keys_that_change_the_result_change_run_and_group(override: str, default: RunIdentity) -> None:
    result = identity([override])
    assert result.run_id != default.run_id
    assert result.group_id != default.group_id
