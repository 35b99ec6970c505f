"""A command line becomes a config, wherever its flags stand; errors name the key and what was expected."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.plugins.config_source import ConfigResult

from emorec.config.command_line import CommandLine, parse
from emorec.config.composition import Composed, compose_once, composer
from emorec.config.schema import SCHEMAS, CommandConfig, ExtractConfig, TrainConfig
from emorec.config.sources import FileConfigSource
from emorec.errors import UserError
from emorec.sweeps.expansion import expand


def compose(*words: str, command: str = "train") -> Composed[CommandConfig]:
    line = parse(command, words)
    with composer(line, SCHEMAS.get(command, TrainConfig)) as open_composer:
        return open_composer.compose(line.overrides)


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "seed=0,1", "fusion=gated"),
        ("seed=0,1", "-m", "fusion=gated"),
        ("seed=0,1", "fusion=gated", "-m"),
        ("seed=0,1", "--multirun", "fusion=gated"),
    ],
)
def test_flags_stand_before_between_or_after_overrides(words: tuple[str, ...]) -> None:
    line = parse("train", words)
    assert line.overrides == ["seed=0,1", "fusion=gated"]
    assert line.multirun
    assert not line.prints_only
    assert line.config_name == "train"


def test_a_line_without_flags_is_one_run() -> None:
    assert parse("train", ["seed=0"]) == CommandLine("train", overrides=["seed=0"])


@pytest.mark.parametrize("words", [("--cfg", "job"), ("--cfg=job",), ("-c", "job"), ("-c=job",)])
def test_the_value_of_a_flag_is_kept_with_the_flag(words: tuple[str, ...]) -> None:
    line = parse("train", ["seed=0", *words, "--resolve", "fusion=gated"])
    assert line.flags == [words[0].partition("=")[0], "job", "--resolve"]
    assert line.overrides == ["seed=0", "fusion=gated"]
    assert line.prints_only


@pytest.mark.parametrize(
    ("words", "flags", "overrides"),
    [
        (["--info"], ["--info"], []),
        (["--info", "seed=0"], ["--info"], ["seed=0"]),
        (["--info", "defaults", "seed=0"], ["--info", "defaults"], ["seed=0"]),
        (["-i", "config"], ["-i", "config"], []),
    ],
)
def test_info_takes_a_value_only_where_one_of_its_choices_follows(
    words: list[str], flags: list[str], overrides: list[str]
) -> None:
    line = parse("train", words)
    assert (line.flags, line.overrides) == (flags, overrides)
    assert line.prints_only


def test_the_command_for_shell_completion_stays_an_override() -> None:
    line = parse("train", ["-sc", "install=bash"])
    assert (line.flags, line.overrides) == (["-sc"], ["install=bash"])
    assert line.prints_only


def test_another_config_and_a_folder_of_configs_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = parse("train", ["--config-name=mine", "--config-dir", "lab"])
    assert line.config_name == "mine"
    assert line.config_dir == str(tmp_path / "lab")


@pytest.mark.parametrize("word", ["--multi", "-x", "--seed=3", "-M", "--"])
def test_an_unknown_flag_is_refused_with_the_known_ones(word: str) -> None:
    with pytest.raises(UserError) as caught:
        parse("train", ["seed=0", word])
    assert repr(word) in str(caught.value)
    assert "--multirun" in str(caught.value)


@pytest.mark.parametrize("flag", ["--cfg", "--config-dir", "-cn", "--package", "--cfg="])
def test_a_flag_without_its_value_is_refused(flag: str) -> None:
    with pytest.raises(UserError, match=f"expected a value after {flag.rstrip('=')}"):
        parse("train", ["seed=0", flag])


@pytest.mark.parametrize("flag", ["--cfg", "--config-dir", "-cn"])
def test_a_flag_is_not_taken_for_the_value_of_another(flag: str) -> None:
    with pytest.raises(UserError, match=f"expected a value after {flag}"):
        parse("train", [flag, "-m", "seed=0"])


def test_overrides_change_the_config_and_are_kept() -> None:
    composed = compose("seed=7", "fusion=gated", "encoder/audio=none")
    assert composed.values["seed"] == 7
    assert composed.values["fusion"]["_target_"] == "emorec.fusion.gated.Gated"
    assert composed.values["encoder"]["audio"] is None
    assert composed.choices["fusion"] == "gated"
    assert composed.choices["encoder/audio"] == "none"
    assert composed.overrides == ["seed=7", "fusion=gated", "encoder/audio=none"]


def test_another_process_composes_the_same_config(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 5\n")
    composed = compose("--config-dir", str(tmp_path), "experiment=mine", "fusion=gated").in_sweep(r"it\'s")
    command, *words = composed.arguments
    again = compose(*words, command=command)
    assert again == composed
    assert (again.values["seed"], again.values["sweep"]["name"]) == (5, r"it\'s")


def test_a_config_is_plain_and_holds_nothing_of_hydra() -> None:
    composed = compose()

    def kinds(value: object) -> set[type]:
        if isinstance(value, dict):
            return {dict, *(kind for item in value.values() for kind in kinds(item))}
        if isinstance(value, list):
            return {list, *(kind for item in value for kind in kinds(item))}
        return {type(value)}

    assert kinds(composed.values) <= {dict, list, str, int, float, bool, type(None)}
    assert "hydra" not in composed.values
    assert not any(group.startswith("hydra") for group in composed.choices)
    assert composed.values["fusion"]["dropout"] == composed.values["model"]["dropout"], "interpolations are resolved"


@pytest.mark.parametrize("order", [1, -1])
def test_an_experiment_is_composed_at_the_top_and_other_overrides_win(order: int) -> None:
    composed = compose(*["experiment=demo_text", "encoder/audio=log_mel"][::order])
    assert composed.choices["experiment"] == "demo_text"
    assert "experiment" not in composed.values
    assert composed.values["encoder"]["video"] is None
    assert composed.values["encoder"]["audio"]["_target_"] == "emorec.encoders.log_mel.LogMel"
    assert composed.choices["encoder/video"] == "none"


def test_an_experiments_values_can_be_overridden() -> None:
    assert compose("experiment=smoke").values["trainer"]["max_epochs"] == 5
    assert compose("experiment=smoke").values["dataset"]["limit"] == 96
    composed = compose("experiment=smoke", "trainer.max_epochs=2")
    assert composed.values["trainer"]["max_epochs"] == 2
    assert composed.overrides == ["experiment=smoke", "trainer.max_epochs=2"]


def test_without_an_experiment_there_is_none_among_the_choices() -> None:
    assert "experiment" not in compose().choices


@pytest.mark.parametrize("first_line", ["", "# @package _global_\n"])
def test_an_experiment_in_the_users_folder_is_composed_whatever_its_first_line(tmp_path: Path, first_line: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "ours.yaml").write_text(
        f"{first_line}defaults:\n  - override /fusion: gated\nseed: 11\ntrainer:\n  max_epochs: 2\n"
    )
    composed = compose("experiment=ours", "--config-dir", str(tmp_path))
    assert composed.values["seed"] == 11
    assert composed.values["trainer"]["max_epochs"] == 2
    assert composed.values["trainer"]["patience"] == compose().values["trainer"]["patience"]
    assert composed.choices["fusion"] == "gated"
    assert composed.choices["experiment"] == "ours"


def test_a_component_in_the_users_folder_is_a_choice(tmp_path: Path) -> None:
    (tmp_path / "fusion").mkdir()
    (tmp_path / "fusion" / "ours.yaml").write_text("_target_: laboratory.fusion.Ours\n")
    composed = compose("--config-dir", str(tmp_path), "fusion=ours")
    assert composed.values["fusion"] == {"_target_": "laboratory.fusion.Ours"}


@pytest.mark.parametrize(
    ("word", "available"),
    [
        ("fusion=concatenate", ("concat", "gated", "self_attention")),
        ("encoder/audio=wav2vec", ("log_mel", "none", "opensmile_compare")),
        ("experiment=nothing", ("demo_all", "smoke")),
        ("dataset=nothing", ("demo", "meld", "ravdess")),
    ],
)
def test_an_unknown_choice_lists_the_known_ones(word: str, available: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        compose(word)
    group, _, choice = word.partition("=")
    assert f"{group}: expected a choice in [" in str(caught.value)
    assert f"got {choice!r}" in str(caught.value)
    for name in available:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("sed=1", "seed"),
        ("dataset.limits=3", "dataset.limit"),
        ("trainer.epochs=3", "trainer.max_epochs"),
        ("model.hiden=3", "model.hidden"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_it_and_the_nearest_one(word: str, nearest: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(word)
    assert str(caught.value) == f"{word.partition('=')[0]}: unknown key; did you mean {nearest}?"


@pytest.mark.parametrize(
    ("key", "value"),
    [("waveform.gain", "{waveform: {gain: …}}"), ("spectrogram", "{spectrogram: …}")],
)
def test_a_key_within_settings_that_are_null_is_an_error_that_says_how_to_give_them(key: str, value: str) -> None:
    with pytest.raises(UserError) as caught:
        compose("encoder/audio=crnn", f"encoder.audio.augmentation.{key}=1")
    assert (
        f"expected settings in encoder.audio.augmentation, which is null; 'encoder.audio.augmentation={value}'"
        in str(caught.value)
    )


@pytest.mark.parametrize("word", ["seed", "a=b=c", "seed=[1", "seed={a:1"])
def test_an_override_that_does_not_parse_is_an_error(word: str) -> None:
    with pytest.raises(UserError, match=r".+"):
        compose(word)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "dataset.root=/a=b",
            """dataset.root: expected quotes around a value with such marks, "dataset.root='/a=b'\"""",
        ),
        (
            "dataset.root=/a{b",
            """dataset.root: expected quotes around a value with such marks, "dataset.root='/a{b'\"""",
        ),
        ("dataset.root=/a,b", "dataset.root: expected one value, got /a,b; -m runs each of them"),
        ("notes='a", "notes: expected a value whose quotes and brackets match"),
        ("+seed=1", "+seed: expected a key that the config does not have; seed=… changes it"),
        ("~notes", "~notes: expected a key with a value, got one that is null already"),
        ("encoder=none", "encoder: expected a group of the config, such as encoder/audio or encoder/text"),
        ("model=null", "fusion.dropout: expected a value that can be read"),
        (f"seed={'9' * 5000}", "expected a config that Hydra reads, got a number of too many digits"),
        ("--config-dir=/nowhere", "the command line: --config-dir: expected a folder, got '/nowhere'"),
    ],
)
def test_what_hydra_refuses_is_said_in_a_line_of_keys_and_values(word: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(word)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert "hydra.cc" not in str(caught.value)


def test_the_id_of_a_run_without_its_key_gets_a_hint() -> None:
    with pytest.raises(UserError, match="did you mean run=408dedec8d84"):
        compose("408dedec8d84", command="evaluate")


@pytest.mark.parametrize("run", ["136787321E83", "1_3", "/a folder/with=marks,{}/136787321e83", "it's"])
def test_a_run_is_a_text_whatever_it_looks_like(run: str) -> None:
    assert compose(f"run={run}", command="evaluate").values["run"] == run


@pytest.mark.parametrize(
    ("words", "fold"),
    [
        (["dataset.protocol=session_5_test"], None),
        (["dataset.protocol=leave_one_speaker_out"], 0),
        (["dataset.protocol=session_5_test", "dataset.fold=1"], 1),  # which the protocol then refuses
    ],
)
def test_a_protocol_without_folds_has_no_fold(words: list[str], fold: int | None) -> None:
    assert compose("dataset=iemocap", *words).values["dataset"]["fold"] == fold


def test_a_value_that_must_be_given_is_named() -> None:
    with pytest.raises(UserError, match="run"):
        compose("to=folder", command="export")


def test_a_config_of_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UserError, match="nothing"):
        compose(command="nothing")


@pytest.mark.parametrize("word", ["encoder/video=null", "context=null", "fusion=3"])
def test_a_choice_that_is_no_name_is_an_error_that_names_the_group(word: str) -> None:
    with pytest.raises(UserError, match=word.partition("=")[0]):
        compose(word)


def test_a_command_that_runs_once_refuses_a_multirun() -> None:
    with pytest.raises(UserError, match="expected no -m, since emorec extract runs once"):
        compose_once("extract", ExtractConfig, ["-m", "dataset=demo,meld"])


def test_a_command_that_runs_once_composes_its_config() -> None:
    composed = compose_once("extract", ExtractConfig, ["dataset=meld"])
    assert composed is not None
    assert composed.choices["dataset"] == "meld"


def test_hydra_prints_the_config_without_running_anything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["emorec"])  # both are changed, and put back by this
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert compose_once("train", TrainConfig, ["seed=7", "--cfg", "job", "experiment=smoke"]) is None
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["seed"] == 7
    assert printed["dataset"]["limit"] == 96


def test_lists_of_values_expand_to_their_product_in_order() -> None:
    assert expand(["seed=0,1", "fusion=concat,gated", "batch_size=8"]) == [
        ["seed=0", "fusion=concat", "batch_size=8"],
        ["seed=0", "fusion=gated", "batch_size=8"],
        ["seed=1", "fusion=concat", "batch_size=8"],
        ["seed=1", "fusion=gated", "batch_size=8"],
    ]


@pytest.mark.parametrize(
    ("override", "jobs"),
    [
        ("seed=range(0,3)", ["seed=0", "seed=1", "seed=2"]),
        ("seed=range(1,6,2)", ["seed=1", "seed=3", "seed=5"]),
        ("fusion=choice(gated,concat)", ["fusion=gated", "fusion=concat"]),
        ("encoder/video=none,frame_statistics", ["encoder/video=none", "encoder/video=frame_statistics"]),
        ("experiment=demo_text,smoke", ["experiment=demo_text", "experiment=smoke"]),
        ("tags=[a,b]", ["tags=[a,b]"]),
        ("tags=[a],[b]", ["tags=[a]", "tags=[b]"]),
        ("optimizer.lr=1e-3,1e-4", ["optimizer.lr=0.001", "optimizer.lr=0.0001"]),
        ("notes='a, b'", ["notes='a, b'"]),
        ("+new=1,2", ["+new=1", "+new=2"]),
    ],
)
def test_each_kind_of_values_expands(override: str, jobs: list[str]) -> None:
    assert expand([override]) == [[job] for job in jobs]


def test_nothing_to_expand_is_one_job() -> None:
    assert expand([]) == [[]]
    assert expand(["seed=1", "fusion=gated"]) == [["seed=1", "fusion=gated"]]


def test_each_expanded_job_composes() -> None:
    line = parse("train", ["-m", "experiment=demo_text,demo_audio", "seed=range(0,2)"])
    with composer(line, TrainConfig) as open_composer:
        composed = [open_composer.compose(job) for job in expand(line.overrides)]
    assert [(item.choices["experiment"], item.values["seed"]) for item in composed] == [
        ("demo_text", 0),
        ("demo_text", 1),
        ("demo_audio", 0),
        ("demo_audio", 1),
    ]
    assert len({item.values["sweep"]["name"] for item in composed}) == 1, "all jobs of a sweep share its folder"


@pytest.mark.parametrize("override", ["seed=interval(0,1)", "seed=range(0", "seed"])
def test_what_cannot_be_expanded_is_an_error(override: str) -> None:
    with pytest.raises(UserError, match=r".+"):
        expand([override])


def test_glob_expands_to_the_choices_of_a_group() -> None:
    with composer(parse("train", ["-m"]), TrainConfig):
        jobs = expand(["fusion=glob(*)", "encoder/video=glob(*)"])
    assert ["fusion=concat", "encoder/video=none"] in jobs
    assert ["fusion=self_attention", "encoder/video=frame_statistics"] in jobs


JOBS = (
    ["dataset=demo", "seed=1"],
    ["dataset=demo", "seed=2", "+optimizer.amsgrad=true"],
    ["seed=3", "fusion=gated", "dataset=demo", "dataset.fold=1"],
    ["dataset=demo", "dataset.fold=1", "dataset={fold: 2}"],
    ["dataset=demo", "dataset={fold: 2}", "dataset.fold=1", "~seed"],
    ["experiment=smoke", "seed=1"],
    ["dataset=demo", "seed=1", "tags=[a,b]", "logger=[csv]"],
)
BAD_JOBS = (["sed=1"], ["fusion=nope"], ["seed=1,2"], ["seed=a{"], ["++dataset=demo"], ["+seed=1"], ["seed=???"])


@pytest.mark.parametrize("again", [False, True])
def test_the_jobs_of_a_multirun_compose_as_they_would_alone(again: bool) -> None:
    def composed(jobs: Sequence[list[str]], flags: list[str]) -> Iterator[dict[str, Any] | str]:
        """Of each job its values, or the error."""
        with composer(parse("train", flags), TrainConfig) as open_composer:
            for job in jobs:
                try:
                    yield open_composer.compose(job).values
                except UserError as error:
                    yield str(error)

    jobs = (*JOBS, *reversed(JOBS)) if again else (*JOBS, *BAD_JOBS)
    results = list(composed(jobs, ["-m"]))
    assert results == list(composed(jobs, []))
    assert sum(isinstance(result, str) for result in results) == (0 if again else len(BAD_JOBS))


def test_jobs_that_make_the_same_choices_read_their_files_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = FileConfigSource.load_config

    def counted(self: FileConfigSource, config_path: str) -> ConfigResult:
        read.append(config_path)
        return load(self, config_path)

    monkeypatch.setattr(FileConfigSource, "load_config", counted)
    with composer(parse("train", ["-m"]), TrainConfig) as of_all:
        for seed in range(3):
            of_all.compose(["dataset=demo", f"seed={seed}"])
    assert read.count("dataset/demo") == read.count("fusion/concat") == 1
