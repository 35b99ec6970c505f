"""Any corpus comes in by one table, or by a folder of labelled subfolders."""

from collections import Counter
from pathlib import Path

import pytest
from pyarrow import Table, parquet

from emorec.datasets.custom import Custom
from emorec.datasets.fixtures.media import write_clip, write_sound
from emorec.datasets.manifest import Manifest
from emorec.errors import UserError
from tests.datasets.conftest import configured


def custom(table: Path | None = None, **options: object) -> Custom:
    settings = {"root": ".", "task": "emotion", "protocol": "auto", "fold": 0, **options}
    return Custom(table=None if table is None else str(table), **settings)  # type: ignore[arg-type]


def scan(table: Path | None = None, **options: object) -> Manifest:
    return custom(table, **options).scan()


def write(folder: Path, text: str, name: str = "corpus.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def rows(count: int = 24, speakers: int = 6) -> str:
    lines = [f"u{n:02d},Sentence {n}.,{('happy', 'sad')[n % 2]},s{n % speakers}" for n in range(count)]
    return "\n".join(["id,text,label,speaker", *lines]) + "\n"


def test_a_table_is_read_into_utterances(tmp_path: Path) -> None:
    table = "id,audio,text,label,speaker,mood\na,wavs/a.wav,Hello.,happy,ann,good\nb,,Oh no.,sad,bob,\n"
    first, second = scan(write(tmp_path, table), protocol="stratified").utterances
    assert first.audio == tmp_path / "wavs" / "a.wav"
    assert (first.id, first.text, first.speaker, first.targets) == ("a", "Hello.", "ann", {"emotion": 0})
    assert first.metadata == {"mood": "good"}
    assert (second.audio, second.targets, second.metadata) == (None, {"emotion": 1}, {})


def test_labels_are_sorted_or_in_the_given_order(tmp_path: Path) -> None:
    table = write(tmp_path, rows())
    assert scan(table).tasks["emotion"].labels == ("happy", "sad")
    ordered = scan(table, label_order=["sad", "happy"])
    assert ordered.tasks["emotion"].labels == ("sad", "happy")
    assert ordered.utterances[0].targets == {"emotion": 1}


def test_a_label_outside_the_given_order_is_reported_with_its_line(tmp_path: Path) -> None:
    problems = scan(write(tmp_path, rows()), label_order=["happy"]).problems
    assert len(problems) == 12
    assert str(problems[0]) == "corpus.csv:3: expected label in ('happy',), got 'sad'"


def test_numeric_targets_are_a_regression_task(tmp_path: Path) -> None:
    table = write(tmp_path, "id,text,target\n" + "".join(f"u{n},Hi.,{n / 10}\n" for n in range(9)))
    manifest = scan(table, task="valence")
    task = manifest.tasks["valence"]
    assert (task.kind, task.monitor, task.direction) == ("regression", "ccc", "max")
    assert [item.targets["valence"] for item in manifest.utterances] == [n / 10 for n in range(9)]


def test_the_monitor_decides_the_direction(tmp_path: Path) -> None:
    table = write(tmp_path, "id,text,target\na,Hi.,1\nb,Ho.,2\nc,Ha.,3\n")
    assert scan(table, monitor="mae", protocol="stratified").tasks["emotion"].direction == "min"


def test_all_problems_of_a_table_are_reported_at_once(tmp_path: Path) -> None:
    table = "id,text,target,start,end,split\na,Hi.,one,,,train\n,Ho.,2,,,val\nc,Ha.,3,5,4,test\nd,He.,4,,,holdout\n"
    with pytest.raises(UserError) as caught:
        custom(write(tmp_path, table)).read()
    for part in (
        "csv:2: expected target",
        "csv:3: expected an id",
        "csv:4: expected start before",
        "csv:5: expected spl",
    ):
        assert part in str(caught.value)


def test_missing_required_columns_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a column id, found"):
        custom(write(tmp_path, "name,text,label\na,b,c\n")).read()
    with pytest.raises(UserError, match="expected a column label or target"):
        custom(write(tmp_path, "id,text,split\na,b,train\n")).read()


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        scan(tmp_path / "absent.csv")


def test_csv_tsv_and_parquet_give_the_same_corpus(tmp_path: Path) -> None:
    from_csv = scan(write(tmp_path, rows()))
    from_tsv = scan(write(tmp_path, rows().replace(",", "\t"), "corpus.tsv"))
    cells = [line.split(",") for line in rows().splitlines()]
    columns = {name: [row[index] for row in cells[1:]] for index, name in enumerate(cells[0])}
    parquet.write_table(Table.from_pydict(columns), tmp_path / "corpus.parquet")
    from_parquet = scan(tmp_path / "corpus.parquet")
    assert from_csv.digest == from_tsv.digest == from_parquet.digest


def test_an_invalid_parquet_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected Parquet"):
        custom(write(tmp_path, "id,text\n", "corpus.parquet")).read()


def test_the_audio_is_that_of_the_video_without_a_column_audio(tmp_path: Path) -> None:
    with_video = scan(write(tmp_path, "id,video,label\na,a.mp4,x\nb,b.mp4,y\n"), protocol="stratified")
    assert with_video.utterances[0].audio == with_video.utterances[0].video == tmp_path / "a.mp4"
    silent = scan(write(tmp_path, "id,video,audio,label\na,a.mp4,,x\nb,b.mp4,,y\n"), protocol="stratified")
    assert silent.utterances[0].audio is None


def test_labelled_subfolders_are_a_corpus(tmp_path: Path) -> None:
    for label in ("happy", "sad"):
        for number in range(3):
            write_sound(tmp_path / label / f"clip{number}.wav", seconds=0.2)
        write_clip(tmp_path / label / "clip0.mp4", seconds=0.2)
        (tmp_path / label / "clip0.txt").write_text("So it is.\n")
        (tmp_path / label / ".hidden.wav").write_bytes(b"")
    manifest = scan(root=str(tmp_path))
    assert [item.id for item in manifest.utterances] == [f"{a}/clip{n}" for a in ("happy", "sad") for n in range(3)]
    first = manifest.utterances[0]
    assert (first.text, first.video, first.targets) == ("So it is.", tmp_path / "happy" / "clip0.mp4", {"emotion": 0})
    assert first.audio == tmp_path / "happy" / "clip0.wav"


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected labelled subfolders"):
        scan(root=str(tmp_path))


# Splits


def test_given_splits_may_have_other_names(tmp_path: Path) -> None:
    table = "id,text,label,split\n" + "".join(
        f"u{n},Hi.,{'xy'[n % 2]},{('Train', 'dev', 'TEST')[n % 3]}\n" for n in range(12)
    )
    corpus = custom(write(tmp_path, table))
    splits = corpus.split(corpus.read())
    assert {name: len(items) for name, items in splits.items()} == {"train": 4, "val": 4, "test": 4}


def test_a_part_of_train_becomes_val_if_no_val_is_given(tmp_path: Path) -> None:
    lines = [f"u{n:02d},Hi.,{'xy'[n % 2]},s{n % 9},{'test' if n % 9 == 0 else 'train'}" for n in range(36)]
    corpus = custom(write(tmp_path, "\n".join(["id,text,label,speaker,split", *lines])))
    manifest = corpus.read()
    splits = corpus.split(manifest)
    assert {item.speaker for item in splits["test"]} == {"s0"}
    speakers = {name: {item.speaker for item in items} for name, items in splits.items()}
    assert not speakers["val"] & speakers["train"]
    assert "part of train" in manifest.notes[0]


@pytest.mark.parametrize("protocol", ["auto", "group_k_fold", "leave_one_speaker_out", "stratified"])
def test_built_splits_cover_the_corpus_and_separate_the_speakers(tmp_path: Path, protocol: str) -> None:
    table = write(tmp_path, rows())
    manifest = scan(table, protocol=protocol)
    tested: Counter[str] = Counter()
    for fold in range(manifest.protocols[protocol].folds):
        splits = custom(table, protocol=protocol, fold=fold).split(manifest)
        names = {name: {item.id for item in items} for name, items in splits.items()}
        assert sum(map(len, names.values())) == 24 == len(set().union(*names.values()))
        tested.update(names["test"])
        if protocol != "stratified":
            speakers = [{item.speaker for item in items} for items in splits.values()]
            assert sum(map(len, speakers)) == len(set().union(*speakers)) == 6
    assert set(tested.values()) == {1}
    assert len(tested) == 24


def test_stratified_parts_have_equal_shares_of_each_class(tmp_path: Path) -> None:
    lines = [f"u{n:03d},Hi.,{'rare' if n % 5 == 0 else 'common'}" for n in range(100)]
    table = write(tmp_path, "\n".join(["id,text,label", *lines]))
    manifest = scan(table, protocol="stratified")
    for fold in range(5):
        test = custom(table, protocol="stratified", fold=fold).split(manifest)["test"]
        assert Counter(item.targets["emotion"] for item in test) == {0: 16, 1: 4}


@pytest.mark.parametrize("given", [False, True])
def test_segments_of_one_recording_are_in_one_split(tmp_path: Path, given: bool) -> None:
    lines = [f"u{n:03d},wavs/{n // 4}.wav,{n % 4},{n % 4 + 1},{'abc'[n % 3]},train" for n in range(80)]
    lines += [f"t{n},wavs/t{n}.wav,0,1,{'abc'[n % 3]},test" for n in range(6)]
    table = write(tmp_path, "\n".join(["id,audio,start,end,label,split", *lines]))
    corpus = custom(table, protocol="given" if given else "stratified", fold=None if given else 0)
    splits = corpus.split(corpus.scan())
    recordings = [{item.audio for item in items} for items in splits.values()]
    assert sum(map(len, recordings)) == len(set().union(*recordings)) == 26
    assert all(recordings)


@pytest.mark.parametrize(("delimiter", "name"), [(";", "corpus.csv"), ("\t", "corpus.csv"), (",", "corpus.tsv")])
def test_the_delimiter_is_detected_from_the_columns(tmp_path: Path, delimiter: str, name: str) -> None:
    manifest = scan(write(tmp_path, rows().replace(",", delimiter), name))
    assert len(manifest.utterances) == 24
    assert not manifest.problems
    assert manifest.utterances[0].text == "Sentence 0."


def test_case_and_spaces_of_column_names_do_not_matter(tmp_path: Path) -> None:
    manifest = scan(write(tmp_path, rows().replace("id,text,label,speaker", "ID, Text, Label, SPEAKER")))
    assert not manifest.problems
    assert manifest.utterances[0].speaker == "s0"
    (problem,) = scan(write(tmp_path, "name,label\na,b\n")).problems
    assert "expected a column id, found ['name', 'label']" in str(problem)


def test_automatic_splits_say_why_they_do_not_separate_speakers(tmp_path: Path) -> None:
    few, one_missing = rows(speakers=4), rows().replace(",s3", ",", 1)
    assert "4 are too few for 5 folds" in " ".join(scan(write(tmp_path, few)).notes)
    assert "1 utterances have no speaker" in " ".join(scan(write(tmp_path, one_missing)).notes)
    assert "several splits" not in " ".join(scan(write(tmp_path, rows())).notes)


def test_a_table_without_rows_is_reported(tmp_path: Path) -> None:
    assert "expected rows, found none" in str(scan(write(tmp_path, "id,text,label\n")).problems)


def test_ambiguous_and_undecodable_files_in_a_folder_are_reported(tmp_path: Path) -> None:
    for name in ("happy/a.wav", "happy/a.flac", "sad/b.wav", "elsewhere/c.wav"):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sound(path, seconds=0.2)
    (tmp_path / "corpus" / "elsewhere").rename(tmp_path / "elsewhere")
    (tmp_path / "corpus" / "sad" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus" / "sad" / "README.txt").write_text("Read me.")
    (tmp_path / "corpus" / "sad" / "b.txt").write_bytes("Grüße".encode("latin-1"))
    manifest = scan(root=str(tmp_path / "corpus"), protocol="stratified")
    assert [item.id for item in manifest.utterances] == ["happy/a", "sad/b", "sad/linked/c"]
    assert [problem.kind for problem in manifest.problems] == ["duplicate", "encoding"]


def test_spellings_of_one_label_or_speaker_are_one_and_noted(tmp_path: Path) -> None:
    spelled = {"u04": ("Happy", "s4"), "u05": ("sad\u200b", "S\N{FULLWIDTH DIGIT FIVE}"), "u06": ("happy ", " s0")}
    lines = rows().splitlines()
    for number, line in enumerate(lines[1:], 1):
        name, text, label, speaker = line.split(",")
        label, speaker = spelled.get(name, (label, speaker))
        lines[number] = ",".join((name, text, label, speaker))
    manifest, same = scan(write(tmp_path, "\n".join(lines))), scan(write(tmp_path, rows(), "plain.csv"))
    assert manifest.digest == same.digest
    assert manifest.notes[1:] == (
        r"spellings of one label: 'happy' (also 'Happy'), 'sad' (also 'sad\u200b')",
        r"spellings of one speaker: 's5' (also 'S\uff15')",
    )
    assert len(same.notes) == 1


def test_one_person_under_several_spellings_is_in_one_split(tmp_path: Path) -> None:
    people = (("Zo\u00eb", "Zoe\u0308"), ("ann", "Ann"), ("bob", "BOB "), ("1", "1.0"), ("02", "2"), ("c", "c\u200d"))
    lines = [f"u{n:02d},Hi.,{'xy'[n // 2 % 2]},{people[n % 6][n // 6 % 2]}" for n in range(48)]
    table = write(tmp_path, "\n".join(["id,text,label,speaker", *lines]))
    manifest = scan(table)
    assert len(manifest.speakers) == 6
    for fold in range(5):
        splits = custom(table, fold=fold).split(manifest)
        spoken = {name: {int(item.id[1:]) % 6 for item in items} for name, items in splits.items()}
        assert sum(map(len, spoken.values())) == 6, "a person is in two splits"


def test_the_label_order_decides_the_spelling(tmp_path: Path) -> None:
    manifest = scan(write(tmp_path, rows()), label_order=["Sad", "HAPPY"])
    assert manifest.tasks["emotion"].labels == ("Sad", "HAPPY")
    assert manifest.utterances[0].targets == {"emotion": 1}
    table = write(tmp_path, "id,text,label\na,x,1.0\nb,x,2\nc,x,01\n")
    numbers = scan(table, label_order=[1, 2], protocol="stratified")
    assert [item.targets["emotion"] for item in numbers.utterances] == [0, 1, 0]


@pytest.mark.parametrize("order", [["happy", "sad", "sad"], ["happy", "Happy", "sad"], []])
def test_the_label_order_must_be_a_list_of_different_labels(tmp_path: Path, order: object) -> None:
    with pytest.raises(UserError, match=r"expected dataset\.label_order to be a list of different labels"):
        scan(write(tmp_path, rows()), label_order=order)


def test_a_label_order_that_is_not_a_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.label_order: expected a list or null, got 'happysad'"):
        configured("custom", tmp_path, label_order="happysad")


def test_rows_with_too_few_or_too_many_cells_are_reported_and_empty_rows_skipped(tmp_path: Path) -> None:
    text = "id,text,label\na,Hi.,x\nb,Oh\n  ,\n\nc,Well, no.,y\nd,So.,y\n   \n"
    problems = scan(write(tmp_path, text), protocol="stratified").problems
    assert [problem.where for problem in problems] == ["corpus.csv:3", "corpus.csv:6"]
    assert "expected 3 cells, found 4" in problems[1].detail


TALK = [f"u{n:02d}\tsome words {n}\t{'ab'[n % 2]}\ts{n % 6}" for n in range(24)]


@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
@pytest.mark.parametrize("closing", ['fine."', 'fine."\tb\t"s, 1'])
def test_a_quote_that_closes_in_another_row_is_refused_with_both_lines(
    tmp_path: Path, delimiter: str, closing: str
) -> None:
    lines = list(TALK)
    lines[5], lines[7] = 'u05\t"I never said that.\tb\ts5', f"u07\tI said it was {closing}\tb\ts1"
    if "\tb" in closing:
        lines[7] = lines[7].removesuffix("\tb\ts1") + '"'
    text = "\n".join(["id\ttext\tlabel\tspeaker", *lines]).replace("\t", delimiter)
    if delimiter == "," or "," not in closing:
        problems = scan(write(tmp_path, text)).problems
        assert [problem.where for problem in problems] == ["corpus.csv:7"]
        assert "a quote opens in line 7 and closes in line 9" in problems[0].detail


def test_a_quote_that_never_closes_is_refused_with_the_line_it_opens_in(tmp_path: Path) -> None:
    text = "\n".join(["id\ttext\tlabel\tspeaker", *TALK[:4], 'u99\t"So\ta\ts1', *TALK[4:]])
    (problem, *_) = scan(write(tmp_path, text)).problems
    assert problem.where == "corpus.csv:6"
    assert problem.fatal


def test_a_quoted_text_may_hold_line_breaks(tmp_path: Path) -> None:
    manifest = scan(
        write(tmp_path, 'id,text,label\na,"One.\n\nTwo, three.",x\nb,"He said ""no"".",y\n'), protocol="stratified"
    )
    assert not manifest.problems
    assert [item.text for item in manifest.utterances] == ["One.\n\nTwo, three.", 'He said "no".']


@pytest.mark.parametrize("end", ["1e300", "inf", "nan", "-1", "1e7"])
def test_impossible_times_are_refused_with_their_line(tmp_path: Path, end: str) -> None:
    (problem,) = scan(write(tmp_path, f"id,audio,end,label\na,a.wav,{end},x\nb,b.wav,2,y\n")).problems
    assert (problem.where, problem.fatal) == ("corpus.csv:2", True)
    assert f"got '{end}'" in problem.detail


@pytest.mark.parametrize(("column", "cell"), [("target", "1e300"), ("target", "1_0"), ("turn", "1e300")])
def test_numbers_that_no_tensor_holds_are_refused(tmp_path: Path, column: str, cell: str) -> None:
    names = ("id", "text", "target", "turn")
    cells = {"id": "a", "text": "x", "target": "1", "turn": "1"} | {column: cell}
    text = "\n".join([",".join(names), ",".join(cells[name] for name in names), "b,x,2,2"])
    (problem,) = scan(write(tmp_path, text), protocol="stratified").problems
    assert f"got '{cell}'" in problem.detail


def test_a_repeated_column_is_reported(tmp_path: Path) -> None:
    (problem,) = scan(write(tmp_path, "id,text,label,label\na,Hi.,x,y\nb,Hi.,y,x\n"), protocol="stratified").problems
    assert "expected each column once, found ['label'] again" in problem.detail


def test_null_and_nan_in_a_parquet_file_are_empty_cells(tmp_path: Path) -> None:
    missing = float("nan")
    columns = {
        "id": ["a", "b", "c"],
        "text": ["Hi.", "Oh.", "So."],
        "label": ["x", None, "y"],
        "start": [missing, 0.5, None],
        "speaker": [1.0, 2.0, missing],
    }
    parquet.write_table(Table.from_pydict(columns), tmp_path / "corpus.parquet")
    manifest = scan(tmp_path / "corpus.parquet", protocol="stratified")
    assert not manifest.problems
    assert [item.start for item in manifest.utterances] == [None, 0.5, None]
    assert manifest.tasks["emotion"].labels == ("x", "y")


def test_a_table_without_any_label_is_reported(tmp_path: Path) -> None:
    (problem,) = scan(write(tmp_path, "id,text,label\na,x,\nb,y,\n")).problems
    assert str(problem) == "corpus.csv:2: expected a label in some row, found none in any"


def test_built_splits_depend_only_on_the_seed(tmp_path: Path) -> None:
    table = write(tmp_path, rows())

    def tested(seed: int) -> list[str]:
        corpus = custom(table, protocol="stratified", split_seed=seed)
        return [item.id for item in corpus.split(corpus.scan())["test"]]

    assert tested(1) == tested(1)
    assert tested(1) != tested(2)


def test_splits_by_speaker_need_speakers(tmp_path: Path) -> None:
    table = write(tmp_path, "id,text,label\na,x,y\nb,x,z\n")
    with pytest.raises(UserError, match="expected a speaker for each utterance"):
        scan(table, protocol="group_k_fold")
    with pytest.raises(UserError, match="at least 3 speakers"):
        scan(write(tmp_path, rows(speakers=2)), protocol="leave_one_speaker_out")


def test_an_unknown_protocol_and_too_few_folds_are_errors(tmp_path: Path) -> None:
    table = write(tmp_path, rows())
    with pytest.raises(UserError, match=r"expected dataset\.protocol in"):
        scan(table, protocol="official")
    with pytest.raises(UserError, match=r"dataset\.folds: expected a whole number of at least 3, got 2"):
        configured("custom", tmp_path, table=str(table), protocol="stratified", folds=2)
    with pytest.raises(UserError, match="column split"):
        scan(table, protocol="given")
