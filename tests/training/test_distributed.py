"""Training on several ranks, on CPU with gloo: processes of our own, or torchrun's."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from emorec import load_run
from emorec.cli import main
from emorec.datamodules.loaders import BatchLoader
from emorec.training.distributed import _free_port
from tests.conftest import emorec_process, environment, processes_of
from tests.datamodules.conftest import MakeExample, make_example
from tests.encoders.tiny_checkpoints import TinyCheckpoints
from tests.training.crashing_loss import Crashing

pytestmark = pytest.mark.slow

__all__ = ["make_example"]
RANKS = ["trainer.devices=2", "trainer.accelerator=cpu", "progress=false", "logger=none"]


def finish(process: "subprocess.Popen[str]", timeout: float = 600) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def runs(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(root.glob("checkpoints/*/run.json"))]


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_ranks_share_each_epoch_without_overlap(make_example: MakeExample, ranks: int) -> None:
    table = make_example().module.tables["train"]
    rows = torch.arange(len(table))
    training = [BatchLoader(table, batch_size=2, shuffle=True, seed=3, shard=(rank, ranks)) for rank in range(ranks)]
    parts = [loader._shard(loader.sampler.rows()).tolist() for loader in training]
    assert len({len(part) for part in parts}) == 1
    joined = [row for part in parts for row in part]
    assert len(joined) == len(set(joined)) == len(table) - len(table) % ranks
    assert all(len(list(loader)) == len(loader) for loader in training)
    order = training[0].sampler.rows()
    first = {row for part in parts for row in part[:2]}
    assert first == set(order[: 2 * ranks].tolist())  # the batch that one process would have taken
    evaluated = [BatchLoader(table, batch_size=2, shard=(rank, ranks))._shard(rows).tolist() for rank in range(ranks)]
    assert sorted(row for part in evaluated for row in part) == rows.tolist()


def test_two_ranks_train_one_run_and_a_second_start_finds_it(root: Path, train_overrides: list[str]) -> None:
    words = ["train", *train_overrides, *RANKS]
    code, out, err = finish(emorec_process(*words, root=root))
    assert code == 0, err
    (run,) = runs(root)
    assert run["status"] == "finished"
    assert run["epochs"] == 3
    assert out.count("test/uar=") == 1
    code, _, err = finish(emorec_process(*words, root=root))
    assert code == 0
    assert "is finished" in err
    assert processes_of(root) == []


def test_validation_over_two_ranks_counts_each_utterance_once(root: Path, train_overrides: list[str]) -> None:
    assert finish(emorec_process("train", *train_overrides, *RANKS, root=root))[0] == 0
    (run,) = runs(root)
    folder = root / "checkpoints" / run["run_id"]
    metrics = json.loads((folder / "metrics.json").read_text())
    with (folder / "history.csv").open(newline="") as stream:
        best = list(csv.DictReader(stream))[run["best_epoch"]]
    for name in ("uar", "weighted_f1", "accuracy", "loss"):  # over ranks in training, by one process at the end
        assert float(best[f"val/{name}"]) == pytest.approx(metrics[f"val/{name}"], rel=1e-4)


def test_a_sweep_of_two_jobs_on_two_ranks_makes_two_runs(root: Path, train_overrides: list[str]) -> None:
    code, out, err = finish(emorec_process("train", "-m", *train_overrides, *RANKS, "seed=0,1", root=root), 240)
    assert code == 0, err
    assert [run["status"] for run in runs(root)] == ["finished"] * 2
    assert "2 of 2 jobs have a result" in out
    assert processes_of(root) == []


@pytest.fixture
def crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides for a loss that raises on one rank, in a lab's own package."""
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    yaml = f"_target_: {Crashing.__module__}.{Crashing.__qualname__}\nrank: 0\n"
    (tmp_path / "conf" / "loss" / "crashing.yaml").write_text(yaml)
    monkeypatch.setenv("EMOREC_TRUST", Crashing.__module__)
    return ["--config-dir", str(tmp_path / "conf"), "loss=crashing"]


def test_one_failing_rank_ends_its_job_and_the_sweep_goes_on(
    root: Path, train_overrides: list[str], crashing: list[str]
) -> None:
    words = ["train", "-m", *train_overrides, *RANKS, *crashing, "loss.rank=0,1,2"]  # there is no rank 2
    code, out, err = finish(emorec_process(*words, root=root))
    assert code == 1, err
    assert sorted(run["status"] for run in runs(root)) == ["failed", "failed", "finished"]
    assert "1 of 3 jobs have a result" in out
    (leading,) = (run for run in runs(root) if "loss.rank=0" in run["overrides"])
    assert "this rank alone" in leading["error"]
    assert processes_of(root) == []


def test_a_signal_to_the_leading_process_saves_on_all_ranks_and_the_run_goes_on(
    root: Path, train_overrides: list[str]
) -> None:
    words = ["train", *train_overrides, *RANKS, "trainer.max_epochs=60", "trainer.patience=null"]
    words += ["checkpoint.every_seconds=0.2"]
    process = emorec_process(*words, root=root)
    wait_until(lambda: list(root.glob("checkpoints/*/resume/*-*.ckpt")), process)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 75, err
    assert [run["status"] for run in runs(root)] == ["interrupted"]
    state = torch.load(max(root.glob("checkpoints/*/resume/*-*.ckpt")), weights_only=True)
    (chance,) = (item["ranks"] for name, item in state["callbacks"].items() if "SaveStates" in name)
    assert len(chance) == 2
    assert not torch.equal(chance[0]["torch"], chance[1]["torch"])  # or each rank would drop the same units
    assert processes_of(root) == []
    code, _, err = finish(emorec_process(*words, root=root))
    assert code == 0, err
    assert "resuming from" in err
    (run,) = runs(root)
    assert (run["status"], run["epochs"]) == ("finished", 60)


def test_weights_shared_out_over_ranks_learn_what_whole_ones_do_also_when_interrupted(
    root: Path, train_overrides: list[str]
) -> None:
    words = ["train", *train_overrides, *RANKS, "trainer.max_epochs=30", "trainer.patience=null"]
    code, _, err = finish(emorec_process(*words, "trainer.strategy=ddp", root=root))
    assert code == 0, err
    sharded = [*words, "trainer.strategy=fsdp", "checkpoint.every_seconds=0.2"]
    process = emorec_process(*sharded, root=root)
    wait_until(lambda: list(root.glob("checkpoints/*/resume/*-*.ckpt")), process)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 75, err
    code, _, err = finish(emorec_process(*sharded, root=root))
    assert code == 0, err
    assert "resuming from" in err
    whole, parts = sorted(runs(root), key=lambda run: run["attempts"])
    assert (whole["attempts"], parts["attempts"], parts["status"]) == (1, 2, "finished")
    assert parts["best_epoch"] == whole["best_epoch"]
    for expected in sorted(root.glob(f"checkpoints/{whole['run_id']}/model/*.safetensors")):
        found = load_file(root / "checkpoints" / parts["run_id"] / "model" / expected.name)
        torch.testing.assert_close(found, load_file(expected), rtol=1e-4, atol=1e-6)


def test_ranks_end_with_the_process_that_leads_them(root: Path, train_overrides: list[str]) -> None:
    words = ["train", *train_overrides, *RANKS, "trainer.max_epochs=60", "trainer.patience=null"]
    words += ["checkpoint.every_seconds=0.2"]
    process = emorec_process(*words, root=root)
    wait_until(lambda: list(root.glob("checkpoints/*/resume/*-*.ckpt")), process)
    process.kill()
    finish(process)
    end = time.monotonic() + 150
    while processes_of(root):
        assert time.monotonic() < end, processes_of(root)
        time.sleep(0.1)
    code, _, err = finish(emorec_process(*words, root=root))
    assert code == 0, err
    assert "resuming from" in err, err


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[str]", seconds: float = 450) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)


def test_torchrun_starts_the_ranks_as_well(root: Path, train_overrides: list[str]) -> None:
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "emorec", "train"]
    process = subprocess.run(
        [sys.executable, *words, *train_overrides, *RANKS],
        env=environment(root),
        cwd=root,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    (run,) = runs(root)
    assert (run["status"], run["epochs"], run["attempts"]) == ("finished", 3, 1)
    assert processes_of(root) == []


def test_ranks_of_torchrun_end_where_their_first_refuses(
    root: Path, train_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", *train_overrides, *RANKS, "trainer.accelerator=gpu", "trainer.strategy=ddp"]
    variables = {"CUDA_VISIBLE_DEVICES": "", "TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ranks = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        ranks.append(emorec_process(*words, root=root))
    (code, _, err), (other, _, _) = (finish(rank) for rank in ranks)
    assert code == 2
    assert "expected 2 GPU(s)" in err
    assert other == 0
    assert "did not read" not in err


def test_a_run_of_one_process_trains_within_an_allocation_of_several_tasks(
    root: Path, train_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SLURM_NTASKS", "4"), ("SLURM_JOB_NAME", "batch"), ("SLURM_JOB_ID", "1")):
        monkeypatch.setenv(name, value)
    assert main(["train", *train_overrides]) == 0


def test_tasks_of_slurm_that_cannot_be_ranks_are_refused(
    root: Path, train_overrides: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("SLURM_NTASKS", "2"), ("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_PROCID", "0")):
        monkeypatch.setenv(name, value)
    assert main(["train", *train_overrides, *RANKS]) == 2
    assert "expected tasks of Slurm that can be ranks" in capsys.readouterr().err


def test_fewer_utterances_than_ranks_are_refused(
    root: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["trainer.devices=9", "trainer.accelerator=cpu", "batch_size=9"]
    assert main(["train", *train_overrides, *words]) == 2
    assert "val has 8" in capsys.readouterr().err


def test_a_batch_that_does_not_part_evenly_is_refused(
    root: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *train_overrides, *RANKS, "batch_size=7"]) == 2
    assert "batch_size: expected a multiple of the 2 ranks" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trainer=fsdp"], "expected 2 GPU(s) on this machine"),
        (["trainer.accelerator=gpu"], "expected 1 GPU(s) on this machine"),
        (["trainer.precision=16-mixed"], "bf16-mixed works on a CPU"),
        (["trainer=fsdp", "trainer.devices=1"], "expected several ranks"),
        (["trainer=fsdp", "trainer.precision=16-mixed"], "trainer.precision: expected 32 or bf16-mixed"),
        (["trainer.accelerator=tpu"], "trainer.accelerator: expected 'auto', 'cpu' or 'gpu', got 'tpu'"),
    ],
)
def test_devices_that_are_not_there_are_refused_before_a_run_begins(
    root: Path, train_overrides: list[str], words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *train_overrides, *words]) == 2
    assert told in capsys.readouterr().err
    assert not list(root.glob("checkpoints/*/run.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_finished_run_is_reported_on_a_machine_without_its_devices(
    root: Path, train_overrides: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("emorec.training.lifecycle.check_devices", lambda _: None)
        assert main(["train", *train_overrides, "trainer.precision=16-mixed"]) == 0
    assert main(["train", *train_overrides, "trainer.precision=16-mixed"]) == 0
    assert capsys.readouterr().out.count("test/uar=") == 2


def test_torchrun_starts_the_ranks_of_one_run_only(
    root: Path, train_overrides: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    assert main(["train", "-m", *train_overrides, "seed=0,1"]) == 2
    assert "expected no -m under torchrun" in capsys.readouterr().err
    assert main(["train", *train_overrides]) == 2
    assert "expected 1 ranks (trainer.devices × trainer.num_nodes), got 2" in capsys.readouterr().err


@pytest.fixture
def patchy_table(small_demo: Path, tmp_path: Path) -> Path:
    """A table of the demo corpus in which of three utterances one lacks text and one lacks sound."""
    (source,) = small_demo.glob("version_*/*.csv")
    with source.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = tmp_path / "patchy.csv"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["id", "audio", "text", "label", "speaker", "split"])
        writer.writeheader()
        for number, row in enumerate(rows):
            own = {"id": row["id"], "label": row["emotion"], "speaker": row["speaker"], "split": row["split"]}
            sound = source.parent / "audio" / f"{row['id']}.flac"
            writer.writerow(
                {**own, "text": row["text"] if number % 3 else "", "audio": sound if number % 3 != 1 else ""}
            )
    return table


def without_chance(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint without dropout and masks."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    calm = {name: 0.0 for name in config if "drop" in name and isinstance(config[name], float)}
    (folder / "config.json").write_text(json.dumps({**config, **calm, "apply_spec_augment": False}))
    return folder


@pytest.mark.parametrize("training", ["full", "lora"])
def test_two_ranks_train_encoders_as_one_does_also_where_a_rank_lacks_a_modality(
    training: str, patchy_table: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = TinyCheckpoints(tmp_path)
    words = ["train", "dataset=custom", f"dataset.table={patchy_table}", "encoder/video=none", "progress=false"]
    for modality, name, kind in (("text", "minilm", "bert"), ("audio", "wav2vec2_large_robust", "wav2vec2_layer")):
        calm = without_chance(checkpoints[kind], tmp_path / f"calm_{kind}")
        words += [f"encoder/{modality}={name}", f"encoder.{modality}.model={calm}"]
        words += [f"encoder.{modality}.training={training}", f"encoder.{modality}.lora.dropout=0"]
    # one utterance on each rank in a step; plain gradient descent, so that weights show gradients
    words += ["batch_size=2", "trainer.max_epochs=2", "trainer.accumulate=2", "model.hidden=8", "model.dropout=0"]
    words += ["optimizer._target_=torch.optim.SGD", "optimizer.lr=0.1", "optimizer.encoder_lr=0.1"]
    words += ["trainer.gradient_clip=null"]
    assert main(words) == 0
    (one,) = runs(root)
    expected = load_run(one["run_id"], checkpoints=root / "checkpoints").model.components()
    both = tmp_path / "both"
    both.mkdir()
    code, _, err = finish(emorec_process(*words, *RANKS, root=both))
    assert code == 0, err
    (two,) = runs(both)
    assert two["epochs"] == one["epochs"] == 2
    found = load_run(two["run_id"], checkpoints=both / "checkpoints").model.components()
    assert {"encoder.text", "encoder.audio"} <= found.keys()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_ranks_share_the_statistics_of_batch_normalisation(root: Path, train_overrides: list[str]) -> None:
    words = ["encoder/audio=crnn", "encoder.audio.channels=[4,4]", "encoder/text=none", "encoder/video=none"]
    words += ["optimizer.lr=0.02", "trainer.gradient_clip=null"]
    code, _, err = finish(emorec_process("train", *train_overrides, *words, *RANKS, root=root))
    assert code == 0, err
    (run,) = runs(root)
    folder = root / "checkpoints" / run["run_id"]
    with (folder / "history.csv").open(newline="") as stream:
        best = list(csv.DictReader(stream))[run["best_epoch"]]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert float(best["val/loss"]) == pytest.approx(metrics["val/loss"], rel=1e-5)
