"""The federated loss against slow loops, its draw of classes, and what it needs of the data."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from transfer.detection.federated import FederatedLoss, federated_classes, federated_loss

CLASSES = 6


def counted(folder: Path, counts: list[int | None]) -> str:
    rows = [{"id": i + 1, "name": str(i), "image_count": n} for i, n in enumerate(counts)]
    rows = [{k: v for k, v in row.items() if v is not None} for row in rows]
    (folder / "lvis.json").write_text(json.dumps({"categories": rows}))
    return str(folder / "lvis.json")


def test_the_loss_is_the_sum_over_boxes_and_kept_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, CLASSES, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, CLASSES, 2, CLASSES])
    kept = torch.tensor([True, False, True, True, False, False])
    weights = torch.tensor([1.0, 0.5, 1.0, 2.0, 0.0], dtype=torch.float64)
    total = federated_loss(logits, labels, kept, weights)
    expected = 0.0
    gradient = torch.zeros_like(logits)
    for n in range(5):
        for c in range(CLASSES):
            if kept[c]:
                score = 1 / (1 + math.exp(-logits[n, c].item()))
                hit = labels[n] == c
                expected -= weights[n].item() * math.log(score if hit else 1 - score)
                gradient[n, c] = weights[n] * (score - float(hit))
    assert total.item() == pytest.approx(expected, abs=1e-12)
    total.backward()
    torch.testing.assert_close(logits.grad, gradient)


def test_the_classes_of_the_boxes_are_always_kept_and_the_others_drawn_by_frequency() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([4, CLASSES, 4])
    frequency = torch.tensor([9.0, 0.0, 1.0, 1.0, 5.0, 0.0])
    drawn = torch.stack([federated_classes(labels, frequency, 2) for _ in range(400)])
    assert drawn[:, 4].all() and (drawn.sum(dim=1) == 2).all()
    assert not drawn[:, [1, 5]].any()  # never annotated: nothing to be negative for
    share = drawn[:, 0].float().mean().item()
    assert abs(share - 9 / 11) < 0.08


def test_no_more_classes_are_drawn_than_there_are_and_none_when_the_boxes_have_enough() -> None:
    frequency = torch.ones(CLASSES)
    assert federated_classes(torch.tensor([CLASSES]), frequency, 50).all()
    kept = federated_classes(torch.tensor([0, 1, 2]), frequency, 2)
    assert kept.tolist() == [True, True, True, False, False, False]


def test_scores_have_a_background_of_zero_and_the_accuracy_is_of_the_foreground(
    tmp_path: Path,
) -> None:
    loss = FederatedLoss(CLASSES, "nowhere.json")
    assert loss.get_cls_channels(CLASSES) == CLASSES
    logits = torch.eye(CLASSES)[:3]
    scores = loss.get_activation(logits)
    torch.testing.assert_close(scores[:, :-1], logits.sigmoid())
    assert (scores[:, -1] == 0).all()
    right = loss.get_accuracy(logits, torch.tensor([0, 3, CLASSES]))["acc_classes"]
    assert right.item() == 50.0
    assert loss.get_accuracy(logits, torch.full((3,), CLASSES))["acc_classes"].item() == 0.0


def test_the_counts_are_read_at_the_first_step_and_the_sum_is_divided(tmp_path: Path) -> None:
    loss = FederatedLoss(CLASSES, counted(tmp_path, [4, 1, 9, 0, 1, 1]), size=CLASSES)
    torch.testing.assert_close(loss.frequency, torch.tensor([2.0, 1.0, 3.0, 0.0, 1.0, 1.0]))
    labels = torch.tensor([0, CLASSES])
    value = loss(torch.zeros(2, CLASSES), labels, torch.ones(2), avg_factor=4.0)
    # class 3 has no images and is never drawn: 2 boxes x 5 classes x log 2
    assert value.item() == pytest.approx(10 * math.log(2) / 4, rel=1e-6)


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, 3, 4, 5, None]])
def test_annotations_that_do_not_fit_are_refused(tmp_path: Path, counts: list) -> None:
    loss = FederatedLoss(CLASSES, counted(tmp_path, counts))
    with pytest.raises(ValueError, match="LVIS training annotations"):
        loss(torch.zeros(1, CLASSES), torch.tensor([0]))


def test_a_missing_file_is_named_and_a_trained_head_needs_none() -> None:
    loss = FederatedLoss(CLASSES, "nowhere.json")
    loss.get_activation(torch.zeros(1, CLASSES))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        loss(torch.zeros(1, CLASSES), torch.tensor([0]))
