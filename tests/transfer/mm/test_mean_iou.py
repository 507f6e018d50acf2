"""mIoU's areas are mmseg's, integer by integer."""

from __future__ import annotations

import pytest
import torch

from transfer import mm
from transfer.mm.mean_iou import areas


def by_histograms(
    prediction: torch.Tensor, label: torch.Tensor, classes: int, ignored: int
) -> list[torch.Tensor]:
    """mmseg's own arithmetic, in loops over classes."""
    seen = label != ignored
    prediction, label = prediction[seen], label[seen]
    both = [((prediction == k) & (label == k)).sum() for k in range(classes)]
    first, second = ([(t == k).sum() for k in range(classes)] for t in (prediction, label))
    union = [a + b - c for a, b, c in zip(first, second, both, strict=True)]
    return [torch.stack(part).double() for part in (both, union, first, second)]


@pytest.mark.parametrize("classes", [1, 2, 19, 150])
@pytest.mark.parametrize("ignored", [255, 0, -1])
def test_areas_are_those_of_the_definition(classes: int, ignored: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    label = torch.randint(0, classes + 2, (37, 41), generator=generator)  # some no class has
    label[:3] = 255
    prediction = torch.randint(0, classes, (37, 41), generator=generator)
    found = areas(prediction, label, classes, ignored)
    for one, other in zip(found, by_histograms(prediction, label, classes, ignored), strict=True):
        assert torch.equal(one, other)


def test_the_metric_is_mmsegs_and_whole_beyond_what_float32_counts() -> None:
    mm.register("mmseg")
    from mmseg.evaluation import IoUMetric

    metric = IoUMetric()
    metric.dataset_meta = dict(classes=("a", "b", "c"))
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (64, 64), generator=generator)
    label[0] = 255
    prediction = torch.where(label == 2, 1, label % 3).clamp(max=2)
    for _ in range(3):
        sample = dict(pred_sem_seg=dict(data=prediction[None]), gt_sem_seg=dict(data=label[None]))
        metric.process({}, [sample])
    found = metric.evaluate(3)
    counts = by_histograms(prediction, label, 3, 255)
    expected = (counts[0] / counts[1]).mean().item() * 100
    assert found["mIoU"] == pytest.approx(expected, abs=0.01)
    # what a page shows class by class: the shares, of classes that occur at all
    shares = (counts[0] / counts[1]).tolist()
    assert metric.per_class["IoU"] == pytest.approx(dict(zip("abc", shares, strict=True)))
    one = torch.tensor([1.0], dtype=torch.float64)
    assert metric.intersect_and_union(label * 0, label * 0, 3, 255)[0].dtype == one.dtype


def test_what_is_not_counted_is_left_to_mmseg() -> None:
    label = torch.zeros(4, 4, dtype=torch.long)
    assert areas(label + 3, label, 3, 255) is None  # a prediction that no class has
    assert areas(label, label + 300, 3, 255) is None
    assert areas(label[:0], label[:0], 3, 255) is None
