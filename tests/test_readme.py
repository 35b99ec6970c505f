"""What the README shows works as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from emorec.cli import main
from emorec.config.command_line import parse
from emorec.config.composition import compose_once, composer
from emorec.config.schema import ReportConfig, TrainConfig
from emorec.escaping import for_markdown
from emorec.markdown import with_deviation
from emorec.reporting.benchmarks import OWN, methods_of
from emorec.sweeps.expansion import expand_lines
from tests.conftest import REPOSITORY
from tests.readme_tables import tables_in

README = (REPOSITORY / "README.md").read_text()
EXPERIMENTS = REPOSITORY / "conf" / "experiment"


def block(heading: str) -> str:
    """The code block whose first line is a comment that names a file."""
    (found,) = re.findall(rf"```(?:python|yaml)\n# {re.escape(heading)}\n(.*?)```", README, flags=re.DOTALL)
    return str(found)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab's own package and configs, as the README shows them, with a corpus of noises."""
    package = tmp_path / "code" / "our_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "moods.py").write_text(block("emorec/datasets/moods.py"))
    (package / "zero_crossings.py").write_text(block("emorec/encoders/zero_crossings.py"))
    for group, name in (("dataset", "moods"), ("encoder/audio", "zero_crossings")):
        (tmp_path / "conf" / group).mkdir(parents=True)
        text = re.sub(r"emorec\.(datasets|encoders)\.", "our_package.", block(f"conf/{group}/{name}.yaml"))
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setenv("EMOREC_TRUST", "our_package")
    corpus = tmp_path / "data" / "moods"
    corpus.mkdir(parents=True)
    rows = ["name,speaker,split,mood,text"]
    generator = np.random.default_rng(0)
    for number in range(18):
        split, mood = ("train", "val", "test")[number // 6], ("calm", "tense")[number % 2]
        sound = generator.normal(0, 0.1, 8000).cumsum() * 0.01 if mood == "calm" else generator.normal(0, 0.1, 8000)
        soundfile.write(corpus / f"clip{number}.wav", np.clip(sound, -1, 1), 16_000)
        rows.append(f"clip{number},{split}er,{split},{mood},well number {number}")
    (corpus / "moods.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setenv("EMOREC_DATA", str(tmp_path / "data"))
    return tmp_path


def test_a_corpus_and_an_encoder_are_added_as_shown(lab: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--config-dir", str(lab / "conf")]
    assert main(["data", "check", "dataset=moods", *own]) == 0
    assert "moods: 18 utterances" in capsys.readouterr().out
    words = ["dataset=moods", "encoder/audio=zero_crossings", "encoder/text=none", "encoder/video=none"]
    assert main(["train", *words, *own, "trainer.max_epochs=20", "optimizer.lr=0.05"]) == 0
    assert "test/uar=1.0000" in capsys.readouterr().out


def test_a_package_that_is_not_trusted_is_refused(
    lab: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("EMOREC_TRUST")
    assert main(["data", "check", "dataset=moods", "--config-dir", str(lab / "conf")]) == 2
    assert "EMOREC_TRUST" in capsys.readouterr().err


def test_every_experiment_begins_with_the_command_that_runs_it() -> None:
    for path in sorted((REPOSITORY / "conf" / "experiment").glob("*.yaml")):
        first = path.read_text().splitlines()[0]
        assert first.startswith("# emorec train")
        assert f"experiment={path.stem}" in first


def test_the_makefile_has_the_commands_of_the_readme() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step.get("run", "") for step in workflow["jobs"]["test"]["steps"]]
    assert "bash .ci/run" in commands


def test_a_table_written_by_hand_is_trained_on_as_shown(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (table,) = re.findall(r"```\n(id,.*?)```", README, flags=re.DOTALL)
    header, *rows = table.strip().splitlines()
    assert len(rows) == 2
    lines = [header]
    for number in range(24):  # the same two rows by other speakers
        name, path, text, label, speaker = rows[number % 2].replace(".wav", f"_{number}.wav").split(",")
        lines.append(f"{name}_{number},{path},{text},{label},{speaker}{number // 4}")
        (tmp_path / path).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / path, np.random.default_rng(number).normal(0, 0.1, 8000), 16_000)
    (tmp_path / "my_corpus.csv").write_text("\n".join(lines))
    words = ["dataset=custom", f"dataset.table={tmp_path / 'my_corpus.csv'}"]
    main(["data", "check", *words])
    assert "splits are made: group_k_fold" in capsys.readouterr().out
    assert main(["train", *words, "encoder/video=none", "trainer.max_epochs=3"]) == 0
    assert "test/uar=" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", [path.stem.removeprefix("benchmark_") for path in EXPERIMENTS.glob("benchmark_*.yaml")]
)
def test_the_table_of_a_benchmark_has_its_methods_and_the_published_figures(name: str) -> None:
    """Whether its figures are those of runs is for `make tables`."""
    line = parse("train", ["-m", f"experiment=benchmark_{name}"])
    with composer(line, TrainConfig) as own_composer:
        jobs = expand_lines(own_composer.compose(line.overrides).jobs, line.overrides, name)
        methods = methods_of({str(number): words for number, words in enumerate(jobs)})
    composed = compose_once("report", ReportConfig, [f"benchmark={name}"])
    assert composed is not None
    assert composed.config.benchmark is not None
    assert composed.config.benchmark.sweep == f"benchmark_{name}"
    lines = tables_in(README)[name].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {row[0] for row in rows if row[-1] == OWN} == {for_markdown(method) for method in methods.values()}
    assert [(row[0], *row[4:]) for row in rows if row[-1] != OWN] == [
        (for_markdown(item.method), with_deviation(item.value, item.deviation), item.protocol, item.source)
        for item in composed.config.benchmark.published
    ]
