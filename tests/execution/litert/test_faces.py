"""What surrounds the face model: anchors, boxes, and which of them are one face."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.execution.litert.faces import anchors, candidates, merge, overlap

corners = st.tuples(st.floats(0, 0.8), st.floats(0, 0.8), st.floats(0.05, 0.3), st.floats(0.05, 0.3))
boxes = st.lists(st.tuples(corners, st.floats(0.5, 1)), max_size=12)


def points(box: tuple[float, float, float, float]) -> list[list[float]]:
    left, top, width, height = box
    return [[left, top], [left + width, top + height], *([[left + width / 2, top + height / 2]] * 6)]


def test_anchors_are_cell_centres_row_by_row() -> None:
    found = anchors()
    assert found.shape == (896, 2)
    assert found[0].tolist() == found[1].tolist() == [0.5 / 16, 0.5 / 16]
    assert found[2].tolist() == [1.5 / 16, 0.5 / 16]
    assert found[512].tolist() == found[517].tolist() == [0.5 / 8, 0.5 / 8]
    assert found[895].tolist() == [7.5 / 8, 7.5 / 8]


def test_candidates_are_offsets_from_their_anchors_in_pixels() -> None:
    raw, logits = np.zeros((896, 16), np.float32), np.full(896, -5.0, np.float32)
    raw[2] = [12.8, 0, 25.6, 51.2, *([1.28] * 12)]
    logits[2] = 2.0
    found, scores = candidates(raw, logits, anchors())
    centre_x, centre_y = 1.5 / 16 + 0.1, 0.5 / 16
    assert found.shape == (1, 8, 2)
    np.testing.assert_allclose(found[0, 0], [centre_x - 0.1, centre_y - 0.2], atol=1e-6)
    np.testing.assert_allclose(found[0, 1], [centre_x + 0.1, centre_y + 0.2], atol=1e-6)
    np.testing.assert_allclose(found[0, 5], [1.5 / 16 + 0.01, 0.5 / 16 + 0.01], atol=1e-6)
    np.testing.assert_allclose(scores, [1 / (1 + np.exp(-2))], atol=1e-6)


def test_candidates_that_are_unsure_or_inside_out_are_dropped() -> None:
    raw, logits = np.zeros((896, 16), np.float32), np.full(896, -0.01, np.float32)
    raw[:, 2:4] = 10
    assert len(candidates(raw, logits, anchors())[0]) == 0
    logits[7] = 100.0
    assert len(candidates(raw, logits, anchors())[0]) == 1
    raw[7, 2] = -10
    assert len(candidates(raw, logits, anchors())[0]) == 0


@given(boxes)
def test_merged_faces_keep_their_order_and_stay_inside(given: list[tuple[tuple[float, ...], float]]) -> None:
    ordered = sorted(given, key=lambda each: -each[1])
    tensor = np.array([points(box) for box, _ in ordered], np.float32).reshape(-1, 8, 2)  # type: ignore[arg-type]
    scores = np.array([score for _, score in ordered], np.float32)
    found = merge(tensor, scores)
    assert bool(found) == bool(given)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    for face, score in found:
        assert np.float32(score) in scores
        assert (face[1] > face[0]).all()
        assert face[:2].min() >= tensor[:, :2].min() - 1e-6
        assert face[:2].max() <= tensor[:, :2].max() + 1e-6


def test_merge_joins_what_overlaps_and_keeps_what_does_not() -> None:
    near = [points((0.1, 0.1, 0.2, 0.2)), points((0.12, 0.1, 0.2, 0.2)), points((0.6, 0.6, 0.2, 0.2))]
    [one, other] = merge(np.array(near, np.float32), np.array([0.9, 0.6, 0.7], np.float32))
    np.testing.assert_allclose([one[1], other[1]], [0.9, 0.7], atol=1e-6)
    np.testing.assert_allclose(one[0][0, 0], (0.1 * 0.9 + 0.12 * 0.6) / 1.5, atol=1e-6)
    np.testing.assert_allclose(other[0][0], [0.6, 0.6], atol=1e-6)


@given(corners, corners)
def test_overlap_is_symmetric_and_one_with_itself(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    both = np.array([points(a), points(b)], np.float32)  # type: ignore[arg-type]
    np.testing.assert_allclose(overlap(both, both[1])[0], overlap(both, both[0])[1], atol=1e-6)
    np.testing.assert_allclose(overlap(both, both[0])[0], 1, atol=1e-6)
    assert 0 <= overlap(both, both[0])[1] <= 1 + 1e-6
