"""The picture is cut around the face, by OpenCV's cascade or by an ONNX model of the documented form."""

import builtins
import copy
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emorec.datasets.demo_synthesis import _face
from emorec.errors import UserError
from emorec.media.faces import FaceMisses, find_face
from emorec.media.source import Source
from emorec.media.video import VideoSettings, read_video
from tests.media.clips import write_clip

Frames = NDArray[np.uint8]
GREEN = (20, 220, 20)
WHERE = "encoder.video.media.faces"


def scene(left: int, top: int, side: int = 96) -> Frames:
    """A drawn face on grey, shown as large as `side`: (4, 240, 320, 3)."""
    cv2 = pytest.importorskip("cv2")
    face = np.clip(_face(0, 0.5, opening=0.5, blinking=False, shift=(0.0, 0.0)), 0, 255).astype(np.uint8)
    frames = np.full((4, 240, 320, 3), 90, dtype=np.uint8)
    frames[:, top : top + side, left : left + side] = cv2.resize(face, (side, side))
    return frames


def squares(boxes: list[tuple[int, int, int] | None], height: int = 120, width: int = 200) -> Frames:
    """Black frames, each with a green square at (left, top, side), or without."""
    frames = np.zeros((len(boxes), height, width, 3), dtype=np.uint8)
    for frame, box in zip(frames, boxes, strict=True):
        if box is not None:
            left, top, side = box
            frame[top : top + side, left : left + side] = GREEN
    return frames


def save_detector(path: Path, height: int | str = "H", width: int | str = "W", **outputs: Any) -> Path:
    """An ONNX model that finds the green part of a picture, in the contract's terms.

    Args:
        path: the file.
        height: of the input, or the name of an open one.
        width: of the input, or the name of an open one.
        **outputs: `names` of both outputs; `columns` of the boxes, 4 but for a model that breaks the contract.
    """
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    names = outputs.get("names", ("boxes", "scores"))
    number = lambda name, value: helper.make_tensor(name, TensorProto.FLOAT, [1], [value])  # noqa: E731
    whole = lambda name, *values: helper.make_tensor(name, TensorProto.INT64, [len(values)], values)  # noqa: E731
    node = helper.make_node
    nodes = [
        node("Slice", ["pixels", "one", "two", "one"], ["green"]),
        node("Slice", ["pixels", "zero", "one", "one"], ["red"]),
        node("Sub", ["green", "red"], ["difference"]),
        node("Greater", ["difference", "half"], ["is_green"]),
        node("Cast", ["is_green"], ["mask"], to=TensorProto.FLOAT),
        node("ReduceMax", ["mask"], ["any"], keepdims=0),
        node("Unsqueeze", ["any", "zero"], [names[1]]),
        node("Shape", ["pixels"], ["shape"]),
    ]
    for axis, position in (("x", "three"), ("y", "two")):
        nodes += [
            node("ReduceMax", ["mask", f"{axis}_over"], [f"{axis}_any"], keepdims=0),
            node("ArgMax", [f"{axis}_any"], [f"{axis}_first"], axis=0, keepdims=1),
            node("ArgMax", [f"{axis}_any"], [f"{axis}_last"], axis=0, keepdims=1, select_last_index=1),
            node("Add", [f"{axis}_last", "one"], [f"{axis}_end"]),
            node("Gather", ["shape", position], [f"{axis}_length"]),
            *(
                node("Cast", [f"{axis}_{name}"], [f"{axis}_{name}_f"], to=TensorProto.FLOAT)
                for name in ("first", "end")
            ),
            node("Cast", [f"{axis}_length"], [f"{axis}_length_f"], to=TensorProto.FLOAT),
            node("Div", [f"{axis}_first_f", f"{axis}_length_f"], [f"{axis}1"]),
            node("Div", [f"{axis}_end_f", f"{axis}_length_f"], [f"{axis}2"]),
        ]
    columns = ["x1", "y1", "x2", "y2"][: outputs.get("columns", 4)]
    nodes += [
        node("Concat", columns, ["box"], axis=0),
        node("Unsqueeze", ["box", "zero"], [names[0]]),
    ]
    constants = [
        number("half", 0.5),
        whole("zero", 0),
        whole("one", 1),
        whole("two", 2),
        whole("three", 3),
        whole("x_over", 0, 1, 2),
        whole("y_over", 0, 1, 3),
    ]
    graph = helper.make_graph(
        nodes,
        "green",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, height, width])],
        [
            helper.make_tensor_value_info(names[0], TensorProto.FLOAT, ["N", len(columns)]),
            helper.make_tensor_value_info(names[1], TensorProto.FLOAT, ["N"]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def detector(tmp_path: Path) -> str:
    pytest.importorskip("onnxruntime")
    return str(save_detector(tmp_path / "green.onnx"))


def read(path: Path, faces: str | None, *, missed: FaceMisses | None = None, **options: Any) -> Frames:
    """4 frames, or as many as `options` say, which also take `margin` and `crop`."""
    frames, margin = options.get("frames", 4), options.get("margin", 0.0)
    settings = VideoSettings(frames=frames, size=64, faces=faces, face_margin=margin)
    return read_video(Source(modality="video", path=path, crop=options.get("crop")), settings, missed=missed)


@pytest.mark.parametrize(("left", "top", "side"), [(20, 30, 96), (200, 120, 96), (100, 20, 192)])
def test_the_cascade_finds_a_face_where_it_is(left: int, top: int, side: int) -> None:
    result = find_face(scene(left, top, side), "haar", 0.0, WHERE)
    assert result is not None
    row, column, size = result
    assert column + size / 2 == pytest.approx(left + side / 2, abs=0.08 * side)
    assert row + size / 2 == pytest.approx(top + side / 2, abs=0.08 * side)
    assert 0.7 * side < size < 1.1 * side


def test_the_largest_face_counts() -> None:
    frames = scene(10, 10, 72)
    larger = scene(150, 60, 144)
    frames[:, 60:204, 150:294] = larger[:, 60:204, 150:294]
    result = find_face(frames, "haar", 0.0, WHERE)
    assert result is not None
    assert result[1] > 140


def test_a_face_at_the_border_is_what_the_picture_shows(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", scene(0, 0, 96))
    missed = FaceMisses()
    face, middle = read(path, "haar", margin=0.1, missed=missed), read(path, "none")
    assert face.shape == middle.shape == (4, 64, 64, 3)
    assert (face.reshape(-1, 3) > 150).any(axis=1).mean() > 0.3, "skin"
    assert (middle.reshape(-1, 3) > 150).any(axis=1).mean() < 0.1
    assert missed.take() == 0


def test_a_clip_without_a_face_is_cut_from_the_middle_and_counted(tmp_path: Path, detector: str) -> None:
    path = write_clip(tmp_path / "a.mp4", squares([None] * 4))
    missed = FaceMisses()
    for faces in ("haar", detector):
        np.testing.assert_array_equal(read(path, faces, missed=missed), read(path, "none"))
        np.testing.assert_array_equal(read(path, faces), read(path, "none"))
        assert missed.take() == 1
    assert missed.take() == 0


def test_nothing_is_counted_where_no_face_is_looked_for(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", squares([None] * 4))
    missed = FaceMisses()
    read(path, "none", missed=missed)
    read(path, None, missed=missed)
    assert missed.take() == 0


def test_clips_of_many_threads_are_all_counted_and_an_encoder_can_be_copied_with_its_counter() -> None:
    missed = FaceMisses()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [missed.add() for _ in range(500)], range(8)))
    assert copy.deepcopy(missed).take() == 4000
    assert missed.take() == 4000


@pytest.mark.parametrize("box", [(10, 20, 40), (150, 70, 50), (0, 0, 30), (170, 90, 30)])
def test_an_onnx_model_is_used_as_detector(box: tuple[int, int, int], detector: str) -> None:
    left, top, side = box
    assert find_face(squares([box] * 3), detector, 0.0, WHERE) == (top, left, side)


@pytest.mark.parametrize(("height", "width"), [(60, 100), (240, 400), (128, 128)])
def test_a_model_of_a_fixed_input_size_gets_that_size(tmp_path: Path, height: int, width: int) -> None:
    pytest.importorskip("onnxruntime")
    path = str(save_detector(tmp_path / "fixed.onnx", height, width))
    result = find_face(squares([(40, 30, 50)] * 2), path, 0.0, WHERE)
    assert result is not None
    np.testing.assert_allclose(result, (30, 40, 50), atol=2)


def test_outputs_of_other_names_are_taken_in_order(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = str(save_detector(tmp_path / "names.onnx", names=("a", "b")))
    assert find_face(squares([(40, 30, 50)]), path, 0.0, WHERE) == (30, 40, 50)


def test_the_margin_is_added_on_each_side(detector: str) -> None:
    assert find_face(squares([(60, 40, 40)]), detector, 0.25, WHERE) == (30, 50, 60)


def test_the_square_stays_inside_the_picture(detector: str) -> None:
    assert find_face(squares([(0, 80, 40)]), detector, 0.5, WHERE) == (40, 0, 80)
    assert find_face(squares([(50, 10, 100)]), detector, 1.0, WHERE) == (0, 40, 120)


def test_the_square_is_the_median_of_the_frames_and_ignores_those_without_a_face(detector: str) -> None:
    boxes = [(40, 30, 40), None, (50, 30, 40), (60, 40, 40), None, None]
    assert find_face(squares(boxes), detector, 0.0, WHERE) == (30, 50, 40)
    outlier = [(40, 30, 40), (40, 30, 40), (150, 80, 20), (40, 30, 40)]
    assert find_face(squares(outlier), detector, 0.0, WHERE) == (30, 40, 40)


def test_the_cut_does_not_move_during_the_clip(tmp_path: Path, detector: str) -> None:
    frames = squares([(60, 40, 40)] * 8)
    frames[:, 10:30, 60:100] = (200, 20, 20)
    frames[3, 40:80, 60:100] = 0  # one frame shows no face
    result = read(write_clip(tmp_path / "a.mp4", frames), detector, margin=0.4, frames=8).astype(int)
    others = [number for number in range(8) if number != 3]
    assert np.abs(result[others] - result[0]).mean() < 3
    assert np.abs(result[3, :12] - result[0, :12]).mean() < 6


def test_the_cut_shows_the_face(tmp_path: Path, detector: str) -> None:
    result = read(write_clip(tmp_path / "a.mp4", squares([(140, 10, 50)] * 4)), detector)
    red, green, blue = result.reshape(-1, 3).mean(axis=0)
    assert green > 190
    assert max(red, blue) < 60


def test_on_a_side_of_the_picture_only_its_face_counts(tmp_path: Path, detector: str) -> None:
    frames = squares([(10, 20, 80)] * 4)
    frames[:, 60:90, 150:180] = GREEN
    path = write_clip(tmp_path / "a.mp4", frames)
    assert read(path, detector, crop="right")[..., 1].mean() > 190, "the small one, whole"
    assert find_face(frames[:, :, 100:], detector, 0.0, WHERE) == (60, 50, 30)


def test_threads_find_what_one_thread_finds(tmp_path: Path, detector: str) -> None:
    clips = [write_clip(tmp_path / f"{number}.mp4", scene(10 + 20 * number, 40, 96)) for number in range(6)]
    for faces in ("haar", detector):
        alone = [read(path, faces) for path in clips]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda path: read(path, faces), clips * 3))  # noqa: B023
        for one, other in zip(alone * 3, together, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_models_content_is_its_identity_and_its_path_is_not(tmp_path: Path, detector: str) -> None:
    duplicate = shutil.copy(detector, tmp_path / "copy.onnx")
    other = save_detector(tmp_path / "other.onnx", 64, 64)
    one, same, another = (VideoSettings(faces=str(path)).identity() for path in (detector, duplicate, other))
    assert one == same
    assert one != another
    assert detector not in str(one)
    before = VideoSettings(faces=str(other)).identity()
    save_detector(other, 96, 96)
    assert VideoSettings(faces=str(other)).identity() != before


def test_the_margin_counts_only_where_faces_are_cut_out() -> None:
    assert VideoSettings(face_margin=0.5).identity() == VideoSettings().identity()
    assert VideoSettings(face_margin=0.5, faces="haar").identity() != VideoSettings(faces="haar").identity()
    assert VideoSettings(faces=None).identity() == VideoSettings(faces="none").identity()


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.video\.media\.faces to be a file that can be read, got .*nowhere"):
        VideoSettings(faces=str(tmp_path / "nowhere.onnx")).identity()


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "text.onnx"
    path.write_text("not a model")
    with pytest.raises(UserError, match=r"expected encoder\.video\.media\.faces to be an ONNX model, got .*text\.onnx"):
        find_face(squares([None]), str(path), 0.0, WHERE)


def test_a_model_that_breaks_the_contract_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = save_detector(tmp_path / "three.onnx", columns=3)
    with pytest.raises(UserError, match=r"expected boxes \(N, 4\) and scores \(N,\) .*three\.onnx .*\(1, 3\)"):
        find_face(squares([(40, 30, 50)]), str(path), 0.0, WHERE)


@pytest.mark.parametrize(("package", "extra"), [("cv2", "faces"), ("onnxruntime", "onnx")])
def test_a_missing_package_is_named_with_its_extra(
    package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = "haar" if package == "cv2" else str(save_detector(tmp_path / "never_loaded.onnx"))
    imported = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {package}")
        return imported(name, *arguments, **options)

    monkeypatch.setattr("emorec.media.faces._local", SimpleNamespace())
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=rf"pip install 'emorec\[{extra}\]'"):
        find_face(squares([None]), faces, 0.0, WHERE)


def test_an_opencv_without_cascades_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emorec.media.faces._local", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="5.0.0"))
    with pytest.raises(UserError, match=r"got OpenCV 5\.0\.0 without haarcascade"):
        find_face(squares([None]), "haar", 0.0, WHERE)
