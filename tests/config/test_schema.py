"""Every config of `conf/` fits its schema; a value that does not fit is one error that says key, expected and got."""

import copy
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from emorec.cli import main
from emorec.config.composition import Composed, composer, parse
from emorec.config.locations import config_folder
from emorec.config.schema import SCHEMAS, CommandConfig, EvaluateConfig, OptimizerComponent, TrainConfig, TuneConfig
from emorec.config.validation import validated
from emorec.errors import UserError
from emorec.reporting.benchmarks import methods_of
from emorec.sweeps.expansion import expand_lines
from tests.discovery import names

CONFIGS = config_folder()
REQUIRED = {
    "evaluate": ["run=0123456789ab"],
    "predict": ["run=0123456789ab", "input=clips"],
    "export": ["run=0123456789ab", "to=folder"],
    "tune": ["study.name=first"],
}  # what a command line must give
PARTS = ("benchmark", "card", "media", "missing", "search")  # groups that other groups or another command compose
GROUPS = sorted({path.parent.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*/*.yaml")} - set(PARTS))
BENCHMARKS = [name for name in names("experiment") if name.startswith("benchmark_")]  # each stands for many jobs
CHOICES = [(group, name) for group in GROUPS for name in names(group, without=()) if name not in BENCHMARKS]


@pytest.fixture
def root(empty_root: Path) -> Path:
    """Without features, so that what is written is seen."""
    return empty_root


def compose(*overrides: str, command: str = "train") -> Composed[CommandConfig]:
    with composer(parse(command, overrides), SCHEMAS[command]) as open_composer:
        return open_composer.compose(overrides)


def train_config(*overrides: str) -> TrainConfig:
    config = compose(*overrides).config
    assert isinstance(config, TrainConfig)
    return config


def message_of(*overrides: str, command: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        _ = compose(*overrides, command=command).config
    return str(caught.value)


# What fits


def test_every_command_with_a_config_has_a_schema() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} - {"base"} == set(SCHEMAS)
    assert {("dataset", "demo"), ("encoder/text", "none"), ("fusion", "concat"), ("experiment", "smoke")} <= set(
        CHOICES
    )


def test_what_all_configs_share_composes_by_itself() -> None:
    with composer(parse("base", []), CommandConfig) as open_composer:
        composed = open_composer.compose([])
    assert composed.config.progress
    assert "hydra" not in composed.values


@pytest.mark.parametrize("command", SCHEMAS)
def test_the_config_of_every_command_fits_its_schema(command: str) -> None:
    composed = compose(*REQUIRED.get(command, []), command=command)
    assert isinstance(composed.config, SCHEMAS[command])
    assert isinstance(composed.config.paths.cache, Path)
    assert set(composed.values["paths"]) == {"root", "data", "cache", "checkpoints"}
    assert "hydra" not in composed.values
    optional = {"metric", "logger", "dataset"}
    fields = set(vars(composed.config))
    assert set(composed.values) <= fields
    assert fields - set(composed.values) <= optional


def together() -> list[list[tuple[str, str]]]:
    """All choices, in as few commands as they fit into: an experiment, which makes choices of its own, by itself."""
    experiments = [[choice] for choice in CHOICES if choice[0] == "experiment"]
    others = [[(group, name) for name in names(group, without=())] for group in GROUPS if group != "experiment"]
    return [*experiments, *([item for item in row if item] for row in zip_longest(*others))]


@pytest.mark.parametrize("choices", together(), ids=lambda choices: choices[0][1])
def test_every_choice_of_every_group_fits(choices: list[tuple[str, str]]) -> None:
    nodes = {group: OmegaConf.load(CONFIGS / group / f"{name}.yaml") for group, name in choices}
    given = [
        f"{group.replace('/', '.')}.{key}=given"
        for group, node in nodes.items()
        for key in node
        if OmegaConf.is_missing(node, key)
    ]
    ranks = ["trainer.num_nodes=1"] if "trainer" in nodes else []
    composed = compose(*(f"{group}={name}" for group, name in choices), *given, *ranks)
    assert isinstance(composed.config, TrainConfig)
    for group, name in choices:
        assert composed.choices[group] == name
        if "_target_" in nodes[group]:
            check_component(composed.config, group, nodes[group])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_method_of_a_benchmark_fits(name: str) -> None:
    with composer(parse("train", ["-m"]), TrainConfig) as open_composer:
        jobs = expand_lines(open_composer.compose([f"experiment={name}"]).jobs, [], name)
    methods = methods_of({str(number): words for number, words in enumerate(jobs)})
    assert len(methods) == len(jobs)
    for number in {method: int(number) for number, method in methods.items()}.values():
        assert isinstance(compose(*jobs[number]).config, TrainConfig)


def test_an_experiment_that_stands_for_many_jobs_is_no_single_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "experiment=benchmark_demo"]) == 2
    assert "sweep.jobs: expected null for a single run (emorec train -m runs them), got 1" in capsys.readouterr().err


def check_component(config: TrainConfig, group: str, node: Any) -> None:
    """Checks that what a config holds for a group is what its YAML says."""
    value: Any = config
    for key in group.split("/"):
        value = getattr(value, key, None)
    assert set(node) - {"defaults"} <= set(value.node)
    assert value.target.__name__ == node["_target_"].rpartition(".")[2]
    assert value.where == group.replace("/", ".")
    own = set(vars(value.rates)) if isinstance(value, OptimizerComponent) else set()
    assert set(value.arguments) == set(value.node) - {"_target_"} - own


@pytest.mark.parametrize("name", names("search"))
def test_every_search_space_fits(name: str) -> None:
    composed = compose("study.name=first", f"search={name}", command="tune")
    assert composed.choices["search"] == name
    assert isinstance(composed.config, TuneConfig)
    assert composed.config.search


def test_the_config_is_typed() -> None:
    config = train_config("optimizer.lr=0.25", "trainer.patience=null", "encoder/video=none", "launcher=local")
    assert config.optimizer.arguments["lr"] == 0.25
    assert config.trainer.patience is None
    assert list(config.encoder.used()) == ["text", "audio"]
    assert config.launcher.name == "local"
    assert [name for name, metric in config.metric.items() if metric is not None][:2] == ["weighted_f1", "macro_f1"]


def test_a_config_is_checked_on_first_access_and_not_before() -> None:
    composed = compose("seed=-1")
    assert composed.values["seed"] == -1
    with pytest.raises(UserError, match="seed"):
        _ = composed.config


@pytest.mark.parametrize("run", ["0", "123", "123456789012", "12e456789012", "1e5", "abc"])
def test_the_id_of_a_run_is_a_text_also_where_it_looks_like_a_number(run: str) -> None:
    config = compose(f"run={run}", command="evaluate").config
    assert isinstance(config, EvaluateConfig)
    assert config.run == run


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("torch.optim.SGD", ["+optimizer.momentum=0.9", "+optimizer.nesterov=true"]),
        ("torch.optim.RMSprop", ["+optimizer.alpha=0.9"]),
        ("torch.optim.Adam", ["+optimizer.betas=[0.9,0.98]"]),
        ("torch.optim.LBFGS", ["~optimizer.weight_decay"]),
    ],
)
def test_any_optimizer_of_torch_fits(target: str, settings: list[str]) -> None:
    assert train_config(f"optimizer._target_={target}", *settings).optimizer.arguments["lr"] == 0.001


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_bounds_of_the_seed_fit(seed: int) -> None:
    assert train_config(f"seed={seed}").seed == seed


# What does not fit

TAG = r"expected a text of at most 64 characters without '/', '\', '..' and line breaks"
SEED = "expected a whole number of at least 0 and of at most 4294967295"
POSITIVE_COUNT = "expected a whole number of at least 1"
VALUES = [
    ("seed=4294967296", f"{SEED}, got 4294967296"),
    ("seed=-1", f"{SEED}, got -1"),
    ("seed=1.5", f"{SEED}, got 1.5"),
    ("seed=true", f"{SEED}, got True"),
    ("seed=null", f"{SEED}, got None"),
    ("seed=", f"{SEED}, got ''"),
    ("seed=100000000000000000000000000000", f"{SEED}, got 100000000000000000000000000000"),
    ("batch_size=0", f"{POSITIVE_COUNT}, got 0"),
    ("batch_size=1e3", f"{POSITIVE_COUNT}, got 1000.0"),
    ("batch_size=[8]", f"{POSITIVE_COUNT}, got [8]"),
    ("batch_size={a:1}", f"{POSITIVE_COUNT}, got {{'a': 1}}"),
    ("batch_size=100000000000000000000", f"{POSITIVE_COUNT}, got 100000000000000000000"),
    ("batch_size_per=rank", "expected 'step' or 'device', got 'rank'"),
    ("trainer.max_epochs=0", f"{POSITIVE_COUNT}, got 0"),
    ("trainer.patience=0", f"{POSITIVE_COUNT} or null, got 0"),
    ("trainer.gradient_clip=-1", "expected a number above 0 or null, got -1"),
    ("trainer.gradient_clip=0", "expected a number above 0 or null, got 0"),
    ("trainer.gradient_clip=inf", "expected a number above 0 or null, got inf"),
    ("trainer.gradient_clip=nan", "expected a number above 0 or null, got nan"),
    ("trainer.precision=bf16", "expected 32, '32', 'bf16-mixed' or '16-mixed', got 'bf16'"),
    ("trainer.precision=16", "expected 32, '32', 'bf16-mixed' or '16-mixed', got 16"),
    ("trainer.accelerator=tpu", "expected 'auto', 'cpu' or 'gpu', got 'tpu'"),
    ("trainer.strategy=ddp2", "expected 'auto', 'ddp' or 'fsdp', got 'ddp2'"),
    ("trainer.devices=0", f"{POSITIVE_COUNT}, got 0"),
    ("trainer.devices=auto", f"{POSITIVE_COUNT}, got 'auto'"),
    ("model.hidden=0", f"{POSITIVE_COUNT}, got 0"),
    ("model.normalisation=batch", "expected 'none', 'train' or 'speaker', got 'batch'"),
    ("loss.label_smoothing=2", "expected a number of at least 0 and below 1, got 2"),
    ("loss.label_smoothing=inf", "expected a number of at least 0 and below 1, got inf"),
    ("loss.label_smoothing=nan", "expected a number of at least 0 and below 1, got nan"),
    ("loss.label_smoothing=false", "expected a number of at least 0 and below 1, got False"),
    ("loss.class_weights=sqrt", "expected 'none', 'inverse' or 'effective_number', got 'sqrt'"),
    ("optimizer.lr=inf", "expected a number above 0, got inf"),
    ("optimizer.lr=0", "expected a number above 0, got 0"),
    ("optimizer.lr=-1", "expected a number above 0, got -1"),
    ("optimizer.lr=null", "expected a number above 0, got None"),
    ("optimizer.lr=fast", "expected a number above 0, got 'fast'"),
    ("optimizer.weight_decay=-0.1", "expected a number of at least 0, got -0.1"),
    ("optimizer.weight_decay=inf", "expected a number of at least 0, got inf"),
    ("fusion.pooling=median", "expected 'mean', 'attention' or 'attentive_statistics', got 'median'"),
    ("encoder.text=3", "expected a mapping or null, got 3"),
    ("encoder.text.dim=0", f"{POSITIVE_COUNT}, got 0"),
    ("encoder.video.media.frames=0", f"{POSITIVE_COUNT}, got 0"),
    ("dataset.limit=-1", f"{POSITIVE_COUNT} or null, got -1"),
    ("dataset.fold=x", "expected a whole number of at least 0 or null, got 'x'"),
    ("dataset.task=3", "expected a text, got 3"),
    ("labels={a:b}", ".a: expected a list, got 'b'"),
    ("labels={a:[1]}", ".a[0]: expected a text, got 1"),
    ("extraction.workers=0", f"{POSITIVE_COUNT}, got 0"),
    ("extraction.on_bad_media=ignore", "expected 'skip' or 'fail', got 'ignore'"),
    ("extraction.stale_after=0", "expected a number above 0, got 0"),
    ("features.preload=gpu", "expected 'auto', 'none', 'ram' or 'device', got 'gpu'"),
    ("features.resident_bytes=-1", "expected a whole number of at least 0, got -1"),
    ("checkpoint.every_seconds=-1", "expected a number of at least 0, got -1"),
    ("paths.checkpoints=null", "expected a path, got None"),
    ("tags=a", "expected a list, got 'a'"),
    ("tags=[1]", f"[0]: {TAG}, got 1"),
    ("notes=3", "expected a text or null, got 3"),
    ("on_running=never", "expected 'wait' or 'skip', got 'never'"),
    ("test=yes", "expected true or false, got 'yes'"),
    ("test=1", "expected true or false, got 1"),
    ("rerun=null", "expected true or false, got None"),
]


@pytest.fixture(scope="module")
def default_values() -> dict[str, Any]:
    return compose().values


@pytest.mark.parametrize(("override", "problem"), VALUES, ids=[override for override, _ in VALUES])
def test_a_value_that_does_not_fit_is_one_problem_of_its_key(
    default_values: dict[str, Any], override: str, problem: str
) -> None:
    parsed = OverridesParser.create().parse_override(override)
    values = copy.deepcopy(default_values)  # to compose anew for each would take long
    *path, last = parsed.key_or_group.split(".")
    node = values
    for key in path:
        node = node[key]
    assert last in node
    node[last] = parsed.value()
    with pytest.raises(UserError) as caught:
        validated(TrainConfig, values)
    separator = "" if problem[0] in ".[" else ": "
    assert str(caught.value) == f"the config: {parsed.key_or_group}{separator}{problem}"


def test_a_value_of_the_command_line_that_does_not_fit_is_one_problem() -> None:
    assert message_of("seed=4294967296") == f"the config: seed: {SEED}, got 4294967296"
    assert message_of("tags=[a,1]") == f"the config: tags[1]: {TAG}, got 1"


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["~trainer.patience"], f"the config: trainer.patience: {POSITIVE_COUNT} or null, got nothing"),
        (["~seed"], f"the config: seed: {SEED}, got nothing"),
        (["~fusion"], "the config: fusion: expected a mapping, got nothing"),
        (["~model.hidden"], f"the config: model.hidden: {POSITIVE_COUNT}, got nothing"),
        (["+trainer._target_=os.system"], "the config: trainer._target_: unknown key; expected one of "),
        (["+trainer.max_epoch=3"], "the config: trainer.max_epoch: unknown key; did you mean trainer.max_epochs?"),
        (["+loss.weights.focal=much"], "the config: loss.weights.focal: expected a number, got 'much'"),
        (["loss.weights={focal:1}"], "loss.weights.focal: unknown key; +loss.weights.focal=… adds it"),
        (["+foo=1"], "the config: foo: unknown key; expected one of batch_size, "),
        (["+optimizer.lerning_rate=1"], "the config: optimizer.lerning_rate: unknown key; expected one of amsgrad, "),
        (["+optimizer.amsgrad=maybe"], "the config: optimizer.amsgrad: expected true or false, got 'maybe'"),
        (["launcher=local", "launcher.slots=0"], f"the config: launcher.slots: {POSITIVE_COUNT} or null, got 0"),
        (["scheduler=linear", "scheduler.warmup=1"], "the config: scheduler.warmup: expected a number "),
        (["scheduler=plateau", "scheduler.mode=most"], "scheduler.mode: unknown key"),
        (["scheduler=plateau", "+scheduler.mode=most"], "the config: scheduler.mode: expected 'min' or "),
        (["logger=wandb", "logger.wandb.timeout=-1"], "the config: logger.wandb.timeout: expected a number"),
        (["logger=wandb", "logger.wandb.mode=sometimes"], "the config: logger.wandb.mode: expected 'online', "),
        (["sweep.name=a/b"], "the config: sweep.name: expected letters, digits, "),
        (["fusion._target_=os.system"], "the config: fusion._target_: expected a class of emorec.datasets, "),
    ],
)
def test_a_config_that_does_not_fit_is_one_problem(overrides: list[str], problem: str) -> None:
    message = message_of(*overrides)
    assert message.startswith(problem)
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("max_epochs=3", "did you mean trainer.max_epochs?"),
        ("lr=0.01", "did you mean optimizer.lr?"),
        ("dropout=0.1", "did you mean fusion.dropout or model.dropout?"),
        ("fold=1", "did you mean dataset.fold?"),
        ("batchsize=3", "did you mean batch_size?"),
        ("encoder.audio.media.trimm=3", "did you mean encoder.audio.media.trim?"),
        ("optimizer.learning_rate=0.1", "did you mean optimizer.lr?"),
        ("learning_rate=0.1", "did you mean optimizer.lr?"),
        ("optimizer.momentum=0.1", "expected one of _target_, encoder_lr, layer_decay, lr, weight_decay; +"),
    ],
)
def test_a_misspelt_key_gets_a_hint(word: str, hint: str) -> None:
    assert message_of(word).startswith(f"{word.partition('=')[0]}: unknown key; {hint}")


def test_a_hint_knows_the_keys_of_the_chosen_group() -> None:
    message = message_of("launcher=local", "launcher.partition=x")
    assert message.startswith("launcher.partition: unknown key; expected one of ")
    assert "slots" in message
    assert message_of("fusion=self_attention", "fusion.head=3").endswith("did you mean fusion.heads?")


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("fusion=gate", "gate"),
        ("loss=focall", "focall"),
        ("optimizer=adam", "adam"),
        ("scheduler=cosin", "cosin"),
        ("encoder/audio=wavlm", "wavlm"),
        ("logger=tensorbord", "tensorbord"),
        ("logger=[wandb,tensorbord]", "tensorbord"),
        ("metric=[uar, f1]", "f1"),
        ("launcher=slrum", "slrum"),
        ("dataset=melt", "melt"),
        ("labels=five", "five"),
        ("context=lstm", "lstm"),
        ("experiment=nothing", "nothing"),
    ],
)
def test_a_misspelt_choice_names_the_group_what_there_is_and_what_was_given(word: str, name: str) -> None:
    group = word.partition("=")[0]
    known = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    assert message_of(word) == f"the command line: {group}: expected a choice in {known}, got {name!r}"


def test_several_choices_of_a_group_fit() -> None:
    assert list(train_config("metric=[uar,accuracy]").metric) == ["uar", "accuracy"]
    assert list(train_config("metric=[]").metric) == []


@pytest.mark.parametrize("word", ["seed", "=1", "seed=1=2", "seed={a:1", "~model"])
def test_a_word_that_is_no_override_is_named(word: str) -> None:
    assert (word if word != "~model" else "model.dropout") in message_of(word)


def test_a_launcher_of_an_unknown_name_lists_the_names() -> None:
    assert message_of("launcher.name=slrum").startswith("the config: launcher.name: expected '")
    assert message_of("launcher.name=slrum").endswith("got 'slrum'")


def test_all_problems_of_a_config_are_reported_at_once() -> None:
    lines = message_of(
        "seed=-1",
        "trainer.gradient_clip=-1",
        "loss.label_smoothing=2",
        "optimizer.lr=inf",
        "+foo=1",
        "~trainer.patience",
    ).splitlines()
    assert lines[0] == "the config: 6 problem(s)"
    keys = {line.strip(" -").partition(":")[0] for line in lines[1:]}
    assert keys == {"seed", "trainer.gradient_clip", "loss.label_smoothing", "optimizer.lr", "foo", "trainer.patience"}


# Values that do not fit each other


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["encoder/text=none", "encoder/audio=none", "encoder/video=none"], "encoder: expected an encoder "),
        (["trainer.devices=3"], "batch_size: expected a multiple of the 3 ranks"),
        (["trainer.strategy=fsdp"], "trainer.devices: expected several ranks"),
        (["trainer=fsdp", "trainer.precision=16-mixed"], "trainer.precision: expected 32 or bf16-mixed"),
        (["+optimizer.fused=true", "trainer.precision=bf16-mixed"], "optimizer.fused: expected false, or "),
    ],
)
def test_values_that_do_not_fit_each_other_are_a_problem(overrides: list[str], problem: str) -> None:
    assert message_of(*overrides).startswith(f"the config: {problem}")


def test_values_that_fit_each_other_are_none() -> None:
    train_config("trainer.devices=3", "batch_size=33")
    train_config("trainer.devices=3", "batch_size_per=device")
    train_config("+optimizer.fused=true", "trainer.precision=bf16-mixed", "trainer.gradient_clip=null")


@pytest.mark.parametrize(
    ("command", "overrides", "problem"),
    [
        ("tune", [], "study.name: expected a name of letters, digits, '_' and '-', got None"),
        ("tune", ["study.name=1a"], "study.name: expected a name of letters, digits, '_' and '-', got '1a'"),
        ("tune", ["study.name=None"], "study.name: expected a name of letters, digits, '_' and '-', got 'None'"),
        ("tune", ["study.name=a", "study.trials=0"], f"study.trials: {POSITIVE_COUNT}, got 0"),
        (
            "tune",
            ["study.name=a", "study.pruner=best"],
            "study.pruner: expected 'none', 'median' or 'asha', got 'best'",
        ),
        ("tune", ["study.name=a", "test=true"], "test: expected false"),
        ("tune", ["study.name=a", "seed=-1"], f"seed: {SEED}, got -1"),
        ("extract", ["encoder.text.dim=0"], f"encoder.text.dim: {POSITIVE_COUNT}, got 0"),
        ("extract", ["encoder/text=none", "encoder/audio=none", "encoder/video=none"], "encoder: expected an encoder"),
        ("evaluate", [], "run: expected a value, got nothing"),
        ("evaluate", ["run=a", "split=dev"], "split: expected 'train', 'val', 'test' or 'all', got 'dev'"),
        ("evaluate", ["run=a", "+seed=1"], "seed: unknown key"),
        ("report", ["output=null"], "output: expected a path, got None"),
        ("data", ["parts=speech"], "parts: expected 'all' or a list, got 'speech'"),
        ("data", ["parts=[1]"], "parts[0]: expected a text, got 1"),
        ("data", ["to=3"], "to: expected a path or null, got 3"),
    ],
)
def test_the_configs_of_other_commands_are_checked_as_well(command: str, overrides: list[str], problem: str) -> None:
    assert problem in message_of(*overrides, command=command)


@pytest.mark.parametrize("words", [["seed=-1"], ["trainer.max_epoch=3"], ["fusion=gate"], ["+foo=1"]])
def test_a_command_refuses_such_a_config_before_it_writes_anything(
    words: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("emorec train: ")
    assert words[0].partition("=")[0].lstrip("+") in message
    assert "Traceback" not in message
    assert [path.name for path in root.iterdir()] == ["data"]
