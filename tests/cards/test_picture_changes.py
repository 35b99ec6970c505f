"""What is done to pictures, by its values."""

import numpy as np
import pytest

from emorec.cards import picture_changes as pictures


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def frames(count: int = 10, size: int = 48) -> np.ndarray:
    """Smooth pictures, each brighter than the last."""
    ramp = np.linspace(20, 180, size)
    picture = np.stack(
        [np.add.outer(ramp, ramp) / 2, np.add.outer(ramp, -ramp) / 4 + 90, np.full((size, size), 70)], -1
    )
    return (picture + 5 * np.arange(count)[:, None, None, None]).astype(np.uint8)


@pytest.mark.parametrize(("share", "lost"), [(0.2, 2), (0.5, 5), (1.0, 9)])
def test_dropped_frames_show_the_last_one_that_arrived(share: float, lost: int) -> None:
    before = frames()
    after = pictures.dropped_frames(before, 0, generator(), share=share)
    kept = [row for row in range(10) if np.array_equal(before[row], after[row])]
    assert len(kept) == 10 - lost
    assert kept[0] == 0
    for row in set(range(10)) - set(kept):
        assert np.array_equal(after[row], after[row - 1])


def test_a_single_frame_is_never_dropped() -> None:
    before = frames(1)
    assert np.array_equal(pictures.dropped_frames(before, 0, generator(), share=0.5), before)


def test_blur_spreads_a_point_by_its_deviation_and_keeps_the_light() -> None:
    before = np.zeros((1, 101, 101, 3), np.uint8)
    before[:, 48:53, 48:53] = 255
    after = pictures.blur(before, 0, generator(), share=0.05).astype(float)  # a deviation of 5 pixels
    weights = after[0, :, :, 0].sum(1)
    rows = np.arange(101) - 50
    assert np.sqrt((weights * rows**2).sum() / weights.sum()) == pytest.approx(np.sqrt(5.05**2 + 2), rel=0.05)
    assert after.sum() == pytest.approx(before.astype(float).sum(), rel=0.02)


def test_darkness_scales_all_values() -> None:
    before = frames()
    assert np.abs(pictures.darkness(before, 0, generator(), factor=0.2) - 0.2 * before).max() <= 0.5


def test_stronger_compression_is_further_from_the_original() -> None:
    before = frames(2, size=51)  # an odd size
    before = (before + generator().integers(0, 20, before.shape)).astype(np.uint8)
    errors = [
        np.abs(pictures.compression(before, 0, generator(), quantiser=quantiser).astype(float) - before).mean()
        for quantiser in (2, 15, 31)
    ]
    assert 0 < errors[0] < errors[1] < errors[2] < 30


def test_the_lower_half_is_hidden_and_the_upper_one_is_not() -> None:
    before = frames()
    after = pictures.hidden_lower_half(before, 0, generator())
    assert np.array_equal(after[:, :24], before[:, :24])
    assert (after[:, 24:] == pictures.GREY).all()
