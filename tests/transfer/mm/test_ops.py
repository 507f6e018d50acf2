"""The stand-in for mmcv's kernels, through mmcv's public functions, against slow loops in
float64.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import math
import sys
import types
import warnings

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from tests.commands import tool
from tests.transfer.mm.inputs import HALVES, mmcv_ops, random
from transfer.mm import ops

pytestmark = pytest.mark.usefixtures("standin")


def random_boxes(number: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator) * 20
    return torch.cat([corner, corner + torch.rand(number, 2, generator=generator) * 15], 1).to(
        dtype
    )


def overlap(a: list[float], b: list[float], offset: int) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union else 0.0


# --- suppression ---------------------------------------------------------------------------------


def test_nms_keeps_the_better_of_two_boxes_that_overlap_by_81_of_119() -> None:
    boxes = torch.tensor([[1.0, 1, 11, 11], [0, 0, 10, 10], [30, 30, 40, 40]])
    scores = torch.tensor([0.8, 0.9, 0.7])
    dets, kept = mmcv_ops.nms(boxes, scores, 0.68)
    assert kept.tolist() == [1, 2]
    assert torch.equal(dets, torch.cat([boxes[kept], scores[kept, None]], 1))
    assert mmcv_ops.nms(boxes, scores, 0.69)[1].tolist() == [1, 0, 2]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_nms_equals_the_greedy_loop(seed: int, offset: int) -> None:
    boxes, scores = random_boxes(40, seed), torch.rand(40, generator=torch.manual_seed(seed))
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[index].tolist(), boxes[k].tolist(), offset) <= 0.4 for k in kept):
            kept.append(index)
    assert mmcv_ops.nms(boxes, scores, 0.4, offset=offset)[1].tolist() == kept
    assert 5 < len(kept) < 40


def test_nms_takes_equal_scores_in_the_order_of_mmcvs_sort() -> None:
    boxes = random_boxes(40, 0)
    scores = (torch.rand(40, generator=torch.manual_seed(0)) * 5).round()
    kept: list[int] = []
    for index in scores.sort(descending=True).indices.tolist():  # as in mmcv's nms.cpp: not stable
        if all(overlap(boxes[index].tolist(), boxes[k].tolist(), 0) <= 0.4 for k in kept):
            kept.append(index)
    assert mmcv_ops.nms(boxes, scores, 0.4)[1].tolist() == kept


def test_nms_does_not_suppress_at_an_overlap_of_exactly_the_threshold() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 6, 1]])  # IoU is 0.6 rounded to float32, > 0.6
    assert mmcv_ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1].tolist() == [0, 1]


def test_nms_with_offset_counts_the_last_pixel() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 0], [0, 0, 5, 0]])  # 10 and 6 pixels, or nothing at all
    scores = torch.tensor([0.9, 0.8])
    assert mmcv_ops.nms(boxes, scores, 0.59, offset=1)[1].tolist() == [0]
    assert mmcv_ops.nms(boxes, scores, 0.59, offset=0)[1].tolist() == [0, 1]


def test_nms_filters_by_score_and_number_and_takes_numpy_and_nothing() -> None:
    boxes, scores = random_boxes(10, 1) + torch.arange(10)[:, None] * 100, torch.arange(10) / 10
    assert mmcv_ops.nms(boxes, scores, 0.5, score_threshold=0.45, max_num=2)[1].tolist() == [9, 8]
    assert mmcv_ops.nms(boxes.numpy(), scores.numpy(), 0.5)[1].tolist() == list(range(9, -1, -1))
    dets, kept = mmcv_ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5) and kept.shape == (0,) and kept.dtype == torch.long


@pytest.mark.parametrize("dtype", HALVES)
def test_nms_takes_half_types(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[1.0, 1, 11, 11], [0, 0, 10, 10], [30, 30, 40, 40]], dtype=dtype)
    dets, kept = mmcv_ops.nms(boxes, torch.tensor([0.8, 0.9, 0.7], dtype=dtype), 0.5)
    assert kept.tolist() == [1, 2] and dets.dtype == dtype


@pytest.mark.parametrize("split", [10000, 1])
def test_batched_nms_suppresses_within_a_class_only(split: int) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [0, 0, 10, 10]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1])
    config = {"type": "nms", "iou_threshold": 0.5, "split_thr": split}
    dets, kept = mmcv_ops.batched_nms(boxes, scores, labels, config)
    assert kept.tolist() == [0, 2] and torch.equal(dets[:, :4], boxes[kept])
    if split > 1:
        agnostic = mmcv_ops.batched_nms(boxes, scores, labels, config, class_agnostic=True)
        assert agnostic[1].tolist() == [0]


def soft_nms_loop(
    boxes: Tensor, scores: Tensor, method: str, threshold: float, sigma: float, lowest: float
) -> list[tuple[int, float]]:
    left = dict(enumerate(scores.tolist()))
    found = []
    while left:
        best = max(left, key=lambda i: left[i])
        found.append((best, left.pop(best)))
        for other in list(left):
            iou = overlap(boxes[best].tolist(), boxes[other].tolist(), 0)
            if method == "gaussian":
                left[other] *= math.exp(-iou * iou / sigma)
            elif iou >= threshold:
                left[other] *= 1 - iou if method == "linear" else 0
            if left[other] < lowest:
                del left[other]
    return found


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("lowest", [1e-3, 0.2])
def test_soft_nms_equals_the_loop_of_its_paper(method: str, lowest: float) -> None:
    boxes, scores = random_boxes(40, 3), torch.rand(40, generator=torch.manual_seed(3))
    dets, kept = mmcv_ops.soft_nms(boxes, scores, 0.3, 0.5, lowest, method)
    expected = soft_nms_loop(boxes, scores, method, 0.3, 0.5, lowest)
    assert kept.tolist() == [index for index, _ in expected]
    torch.testing.assert_close(dets[:, 4], torch.tensor([score for _, score in expected]))
    assert torch.equal(dets[:, :4], boxes[kept])


def test_soft_nms_breaks_ties_as_mmcv_does_by_letting_the_last_box_take_a_dropped_place() -> None:
    # Box 1 is dropped by box 0; box 4 takes its place and so goes before 2 and 3 of the same score.
    boxes = torch.tensor([[0.0, 0, 1, 1]] * 2 + [[float(x), 0, x + 1.0, 1] for x in (10, 20, 30)])
    scores = torch.tensor([0.9, 0.8, 0.5, 0.5, 0.5])
    assert mmcv_ops.soft_nms(boxes, scores, 0.5, method="naive")[1].tolist() == [0, 4, 2, 3]


def test_soft_nms_of_no_boxes_is_no_boxes() -> None:
    dets, kept = mmcv_ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5) and kept.shape == (0,)


def test_nms_match_groups_each_kept_box_with_those_it_suppresses() -> None:
    dets = torch.tensor(
        [[30, 30, 40, 40, 0.7], [0, 0, 10, 10, 0.9], [31, 30, 41, 40, 0.6], [1, 1, 11, 11, 0.8]]
    )
    assert [group.tolist() for group in mmcv_ops.nms_match(dets, 0.5)] == [[1, 3], [0, 2]]


@pytest.mark.parametrize("seed", range(3))
def test_nms_match_equals_the_greedy_loop(seed: int) -> None:
    boxes, scores = random_boxes(40, seed), torch.rand(40, generator=torch.manual_seed(seed))
    waiting, groups = scores.argsort(descending=True).tolist(), []
    while waiting:
        best = boxes[waiting[0]].tolist()
        groups.append(
            [i for i in waiting if i == waiting[0] or overlap(best, boxes[i].tolist(), 0) >= 0.4]
        )
        waiting = [i for i in waiting if i not in groups[-1]]
    found = mmcv_ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.4)
    assert [group.tolist() for group in found] == groups
    assert 5 < len(groups) < 40


# --- regions -------------------------------------------------------------------------------------


def bilinear(plane: Tensor, y: float, x: float) -> float:
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = plane[top, left] * (1 - x + left) + plane[top, right] * (x - left)
    lower = plane[bottom, left] * (1 - x + left) + plane[bottom, right] * (x - left)
    return float(upper * (1 - y + top) + lower * (y - top))


def roi_align_loop(
    maps: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    aligned: bool,
) -> Tensor:
    result = torch.zeros(len(rois), maps.shape[1], *size, dtype=torch.float64)
    for r, roi in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (value * scale - 0.5 * aligned for value in roi[1:])
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = max(height, 1.0), max(width, 1.0)
        bin_h, bin_w = height / size[0], width / size[1]
        grid_h, grid_w = (ratio, ratio) if ratio else (math.ceil(bin_h), math.ceil(bin_w))
        for c in range(maps.shape[1]):
            for p in range(size[0]):
                for q in range(size[1]):
                    samples = [
                        bilinear(
                            maps[int(roi[0]), c],
                            y1 + p * bin_h + (i + 0.5) * bin_h / grid_h,
                            x1 + q * bin_w + (j + 0.5) * bin_w / grid_w,
                        )
                        for i in range(grid_h)
                        for j in range(grid_w)
                    ]
                    if samples:
                        result[r, c, p, q] = sum(samples) / len(samples)
    return result


ROIS = torch.tensor(
    [
        [0, 1.3, 2.1, 9.7, 8.2],
        [1, 0.2, 0.4, 15.3, 11.9],  # the whole map
        [1, -6.0, -5.0, 4.2, 3.1],  # half outside
        [0, 3.1, 3.2, 3.6, 3.9],  # smaller than a cell
        [0, 40.0, 40.0, 50.0, 50.0],  # wholly outside
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_equals_the_loop_over_bins_and_samples(ratio: int, aligned: bool) -> None:
    maps = random(2, 2, 6, 8)
    layer = mmcv_ops.RoIAlign((3, 2), 0.5, ratio, aligned=aligned)
    expected = roi_align_loop(maps, ROIS, (3, 2), 0.5, ratio, aligned)
    torch.testing.assert_close(layer(maps, ROIS), expected)
    single = layer(maps.float(), ROIS.float())
    torch.testing.assert_close(single, expected.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_gradient_equals_finite_differences(ratio: int, aligned: bool) -> None:
    maps = random(2, 2, 6, 8).requires_grad_()
    layer = mmcv_ops.RoIAlign((3, 2), 0.5, ratio, aligned=aligned)
    assert gradcheck(lambda x: layer(x, ROIS), maps)
    layer(maps, ROIS).sum().backward()
    assert maps.grad.abs().sum() > 0


def test_roi_align_of_a_ramp_is_the_mean_of_its_region() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 8, 8).contiguous()  # value = x, cell centres at x + 0.5
    roi = torch.tensor([[0.0, 2.0, 2.0, 6.0, 6.0]])
    pooled = mmcv_ops.roi_align(ramp, roi, (1, 2), 1.0, 0, "avg", True)
    torch.testing.assert_close(pooled, torch.tensor([[[[2.5, 4.5]]]]))


def test_roi_align_of_no_regions_gives_no_regions_and_zero_gradient() -> None:
    maps = random(1, 2, 4, 4).requires_grad_()
    pooled = mmcv_ops.RoIAlign(2)(maps, torch.zeros(0, 5, dtype=torch.float64))
    pooled.sum().backward()
    assert pooled.shape == (0, 2, 2, 2) and not maps.grad.any()


def test_roi_align_of_an_empty_region_is_zero() -> None:
    maps = random(1, 1, 4, 4).requires_grad_()
    roi = torch.tensor([[0.0, 2.0, 2.0, 2.0, 2.0]], dtype=torch.float64)
    pooled = mmcv_ops.RoIAlign(2, sampling_ratio=0)(maps, roi)
    pooled.sum().backward()
    assert not pooled.any() and not maps.grad.any()


# --- focal losses --------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma,alpha", [(2.0, 0.25), (0.0, 0.5), (1.5, 0.75)])
@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_focal_loss_equals_its_equation(gamma: float, alpha: float, weighted: bool) -> None:
    logits, target = random(5, 3), torch.tensor([0, 2, 1, 1, 0])
    weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64) if weighted else None
    loss = mmcv_ops.sigmoid_focal_loss(logits, target, gamma, alpha, weight, "none")
    for r in range(5):
        for k in range(3):
            p = 1 / (1 + math.exp(-logits[r, k].item()))
            p_t, a_t = (p, alpha) if target[r] == k else (1 - p, 1 - alpha)
            expected = -a_t * (1 - p_t) ** gamma * math.log(p_t)
            expected *= weight[target[r]].item() if weighted else 1
            assert loss[r, k].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sigmoid_focal_loss_gradient_equals_finite_differences(reduction: str) -> None:
    logits, target = random(5, 3).requires_grad_(), torch.tensor([0, 2, 3, 1, 3])  # 3: background
    weight = None
    assert gradcheck(
        lambda x: mmcv_ops.sigmoid_focal_loss(x, target, 2.0, 0.25, weight, reduction), logits
    )


def test_sigmoid_focal_loss_of_a_background_row_counts_every_class_as_negative() -> None:
    loss = mmcv_ops.sigmoid_focal_loss(
        torch.zeros(1, 2), torch.tensor([2]), 2.0, 0.25, None, "none"
    )
    torch.testing.assert_close(loss, torch.full((1, 2), 0.75 * 0.25 * math.log(2)))


def test_sigmoid_focal_loss_stays_finite_and_steep_at_extreme_logits() -> None:
    logits = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    loss = mmcv_ops.sigmoid_focal_loss(logits, torch.tensor([0]), 2.0, 0.25, None, "sum")
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(0.25 * 200 + 0.75 * 200))
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.25, 0.75]]))


# --- deformable convolution and attention --------------------------------------------------------


def open_bilinear(plane: Tensor, y: float, x: float) -> float:
    """Zero outside the map, unlike RoIAlign's."""
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for row, by_row in ((top, 1 - y + top), (top + 1, y - top)):
        for column, by_column in ((left, 1 - x + left), (left + 1, x - left)):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                total += float(plane[row, column]) * by_row * by_column
    return total


def deform_conv_loop(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    geometry: tuple[int, int, int],
    groups: int,
    deform_groups: int,
) -> Tensor:
    stride, padding, dilation = geometry
    images, channels = x.shape[:2]
    outputs, per_group, kernel_h, kernel_w = weight.shape
    height, width = offset.shape[2:]
    result = torch.zeros(images, outputs, height, width, dtype=torch.float64)
    for n in range(images):
        for o in range(outputs):
            for i in range(height):
                for j in range(width):
                    for c in range(per_group):
                        channel = o // (outputs // groups) * per_group + c
                        group = channel // (channels // deform_groups)
                        for k in range(kernel_h * kernel_w):
                            place = group * kernel_h * kernel_w + k
                            y = i * stride - padding + k // kernel_w * dilation
                            z = j * stride - padding + k % kernel_w * dilation
                            value = open_bilinear(
                                x[n, channel],
                                y + offset[n, 2 * place, i, j].item(),
                                z + offset[n, 2 * place + 1, i, j].item(),
                            )
                            value *= 1 if mask is None else mask[n, place, i, j].item()
                            result[n, o, i, j] += value * weight[o, c].flatten()[k]
    return result


GEOMETRIES = [((1, 1, 1), 1, 1), ((2, 1, 1), 2, 1), ((1, 2, 2), 1, 2), ((1, 0, 1), 2, 2)]


def deform_inputs(
    geometry: tuple[int, int, int], groups: int, deform_groups: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stride, padding, dilation = geometry
    size = (5 + 2 * padding - 2 * dilation - 1) // stride + 1
    offset = random(2, deform_groups * 18, size, size, seed=1)
    mask = random(2, deform_groups * 9, size, size, seed=2).sigmoid()
    return random(2, 4, 5, 5), offset, mask, random(2, 4 // groups, 3, 3, seed=3)


@pytest.mark.parametrize("geometry,groups,deform_groups", GEOMETRIES)
def test_deform_conv_equals_the_loop_and_finite_differences(
    geometry: tuple[int, int, int], groups: int, deform_groups: int
) -> None:
    x, offset, _, weight = deform_inputs(geometry, groups, deform_groups)
    layer = mmcv_ops.DeformConv2d(4, 2, 3, *geometry, groups, deform_groups).double()
    layer.weight.data.copy_(weight)
    expected = deform_conv_loop(x, offset, weight, None, geometry, groups, deform_groups)
    torch.testing.assert_close(layer(x, offset), expected)

    def whole(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        return mmcv_ops.deform_conv2d(x, offset, weight, *geometry, groups, deform_groups, False, 1)

    inputs = [tensor.requires_grad_() for tensor in (x, offset, weight)]
    assert gradcheck(whole, inputs, fast_mode=True)


@pytest.mark.parametrize("geometry,groups,deform_groups", GEOMETRIES)
def test_modulated_deform_conv_equals_the_loop_and_finite_differences(
    geometry: tuple[int, int, int], groups: int, deform_groups: int
) -> None:
    x, offset, mask, weight = deform_inputs(geometry, groups, deform_groups)
    bias = random(2, seed=4)
    layer = mmcv_ops.ModulatedDeformConv2d(4, 2, 3, *geometry, groups, deform_groups).double()
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)
    expected = deform_conv_loop(x, offset, weight, mask, geometry, groups, deform_groups)
    torch.testing.assert_close(layer(x, offset, mask), expected + bias[:, None, None])

    def whole(*inputs: Tensor) -> Tensor:
        return mmcv_ops.modulated_deform_conv2d(*inputs, *geometry, groups, deform_groups)

    inputs = [tensor.requires_grad_() for tensor in (x, offset, mask, weight, bias)]
    assert gradcheck(whole, inputs, fast_mode=True)
    assert gradcheck(lambda *four: whole(*four, None), inputs[:4], fast_mode=True)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("modulated", [False, True])
def test_deform_conv_reads_nothing_at_an_offset_that_is_not_finite(
    broken: float, axis: int, modulated: bool
) -> None:
    geometry = ((1, 1, 1), 1, 1)
    x, offset, mask, weight = deform_inputs(*geometry)
    elsewhere = offset.clone()
    # one image stays whole; of the other all y, or all x
    offset[1, axis::2], elsewhere[1, axis::2] = broken, 1e3
    found = []
    for place in (offset, elsewhere):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, place, weight, mask)]
        if modulated:
            out = mmcv_ops.modulated_deform_conv2d(
                *inputs[:2], inputs[3], inputs[2], None, 1, 1, 1, 1, 1
            )
        else:
            out = mmcv_ops.deform_conv2d(*inputs[:3], 1, 1, 1, 1, 1, False, 1)
        out.square().sum().backward()
        found.append((out, *(tensor.grad for tensor in inputs[: 4 if modulated else 3])))
    (out, grad_x, grad_offset, *grads), (zero, zero_x, zero_offset, *zeros) = found
    torch.testing.assert_close([out, grad_x, *grads], [zero, zero_x, *zeros])
    assert torch.equal(grad_offset.isnan(), offset.isnan())  # what the optimizer's guard sees
    torch.testing.assert_close(grad_offset.nan_to_num(), zero_offset)


def test_deform_conv_without_displacement_is_a_convolution_also_when_height_and_width_differ() -> (
    None
):
    x, weight = random(4, 4, 7, 8), random(3, 4, 3, 2, seed=1)
    geometry = ((2, 1), (0, 1), (1, 2))
    plain = torch.nn.functional.conv2d(x, weight, None, *geometry)
    still, open_ = (random(4, number, *plain.shape[2:]) * 0 for number in (12, 6))
    torch.testing.assert_close(mmcv_ops.deform_conv2d(x, still, weight, *geometry), plain)
    modulated = mmcv_ops.modulated_deform_conv2d(x, still, open_ + 1, weight, None, *geometry)
    torch.testing.assert_close(modulated, plain)


def test_dcn_packs_that_mmdet_builds_by_name_train() -> None:
    for pack in (mmcv_ops.DeformConv2dPack, mmcv_ops.ModulatedDeformConv2dPack):
        layer = pack(4, 3, 3, padding=1)
        layer(random(2, 4, 6, 6, dtype=torch.float32)).square().mean().backward()
        assert layer.weight.grad.abs().sum() > 0
        assert layer.conv_offset.weight.grad.abs().sum() > 0


def test_deformable_attention_kernels_for_cuda_equal_the_path_for_the_cpu() -> None:
    """mmcv calls them on CUDA only; the function itself runs anywhere."""
    module = importlib.import_module("mmcv.ops.multi_scale_deform_attn")
    shapes, starts = torch.tensor([[3, 4], [2, 2]]), torch.tensor([0, 12])
    value = random(1, 16, 2, 3).requires_grad_()
    where = random(1, 5, 2, 2, 2, 2, seed=1).sigmoid().requires_grad_()
    weights = random(1, 5, 2, 4, seed=2).softmax(-1).view(1, 5, 2, 2, 2).requires_grad_()

    def kernel(value: Tensor, where: Tensor, weights: Tensor) -> Tensor:
        return module.MultiScaleDeformableAttnFunction.apply(
            value, shapes, starts, where, weights, 64
        )

    expected = module.multi_scale_deformable_attn_pytorch(value, shapes, where, weights)
    torch.testing.assert_close(kernel(value, where, weights), expected)
    assert gradcheck(kernel, (value, where, weights), fast_mode=True)


# --- types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
def test_roi_align_in_half_types_keeps_the_type_and_the_value(dtype: torch.dtype) -> None:
    maps, rois = random(2, 2, 6, 8).to(dtype).requires_grad_(), ROIS[:2].to(dtype)
    layer = mmcv_ops.RoIAlign(2, 0.5, 2)
    pooled = layer(maps, rois)
    (gradient,) = torch.autograd.grad(pooled.sum(), maps)
    assert pooled.dtype == gradient.dtype == dtype
    wide = layer(maps.detach().float(), rois.float())
    torch.testing.assert_close(pooled.float(), wide, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("dtype", HALVES)
def test_deformable_and_focal_kernels_in_half_types_keep_the_type_and_the_value(
    dtype: torch.dtype,
) -> None:
    x, offset, mask, weight = (tensor.to(dtype) for tensor in deform_inputs((1, 1, 1), 1, 1))
    target = torch.tensor([0, 1])
    calls = {
        "deform": (lambda x: mmcv_ops.deform_conv2d(x, offset.to(x), weight.to(x), 1, 1), x),
        "modulated": (
            lambda x: mmcv_ops.modulated_deform_conv2d(
                x, offset.to(x), mask.to(x), weight.to(x), None, 1, 1
            ),
            x,
        ),
        "focal": (lambda x: mmcv_ops.sigmoid_focal_loss(x, target), x[0, :2, 0]),
    }
    for name, (call, argument) in calls.items():
        argument = argument.detach().clone().requires_grad_()
        result = call(argument)
        result.sum().backward()
        assert result.dtype == argument.grad.dtype == dtype, name
        torch.testing.assert_close(
            result.float(), call(argument.detach().float()), atol=5e-2, rtol=2e-2
        )


def test_deform_conv_trains_under_bfloat16_autocast() -> None:
    layer = mmcv_ops.ModulatedDeformConv2dPack(4, 3, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(random(2, 4, 6, 6, dtype=torch.float32))
    output.float().square().mean().backward()
    assert output.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == torch.float32 and layer.weight.grad.abs().sum() > 0


# --- which module answers ------------------------------------------------------------------------


class ExtensionFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Pretends that ``mmcv._ext`` is on disk: it loads with an ``nms``, or fails with ``error``."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def find_spec(
        self, name: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name == ops.EXTENSION else None

    def exec_module(self, module: types.ModuleType) -> None:
        if self.error is not None:
            raise self.error
        module.nms = lambda *_, **__: "compiled"


@pytest.fixture
def unchosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Python had just started: no ``mmcv._ext`` yet, no wish in the environment."""
    monkeypatch.delenv(ops.SWITCH, raising=False)
    monkeypatch.delitem(sys.modules, ops.EXTENSION)


def test_an_op_without_stand_in_raises_only_when_called_and_says_how_to_compile() -> None:
    layer = mmcv_ops.PrRoIPool(2)
    with pytest.raises(NotImplementedError, match=r"'prroi_pool_forward'.*pip install.*onedl-mmcv"):
        layer(torch.zeros(1, 4, 4, 4), torch.zeros(1, 5))


def test_what_no_config_calls_raises_like_the_others() -> None:
    maps, rois = torch.zeros(1, 4, 4, 4), torch.zeros(1, 5)
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        mmcv_ops.RoIAlign(2, pool_mode="max")(maps, rois)
    with pytest.raises(NotImplementedError, match="'roi_pool_forward'"):
        mmcv_ops.RoIPool(2)(maps, rois)
    with pytest.raises(NotImplementedError, match="'softmax_focal_loss_forward'"):
        mmcv_ops.softmax_focal_loss(torch.zeros(2, 3), torch.tensor([0, 1]))


def test_the_list_of_ops_in_the_results_names_every_kernel_once(standin: types.ModuleType) -> None:
    named = [kernel for op in tool("measure/ops_coverage").COVERAGE for kernel in op.kernels]
    assert sorted(named) == sorted(ops.KERNELS)
    assert all(getattr(standin, kernel) is ops.KERNELS[kernel] for kernel in named)


def test_the_stand_in_is_not_taken_for_a_package() -> None:
    with pytest.raises(AttributeError):
        _ = sys.modules[ops.EXTENSION].__path__
    importlib.import_module("mmcv")
    assert importlib.import_module(ops.EXTENSION) is sys.modules["mmcv"]._ext


def test_a_compiled_module_wins_and_reaches_ops_that_were_imported_before(
    unchosen: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", [ExtensionFinder(), *sys.meta_path])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = ops.install()
    assert not ops.is_standin()
    assert sys.modules["mmcv.ops.nms"].ext_module is compiled
    assert compiled.nms() == "compiled"
    assert ops.install() is compiled


def test_a_compiled_module_can_be_set_aside(
    unchosen: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", [ExtensionFinder(), *sys.meta_path])
    compiled = ops.install()
    with ops.using("standin"):
        assert ops.is_standin()
        assert mmcv_ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].shape == (0,)
    assert sys.modules[ops.EXTENSION] is compiled
    monkeypatch.setenv(ops.SWITCH, "standin")
    ops.install()
    assert ops.is_standin()


@pytest.mark.parametrize(
    "error",
    [
        ImportError("_ext.so: undefined symbol: _ZN3c104cuda9SetDeviceEi"),
        OSError("libcudart.so.11.0: cannot open shared object file"),
    ],
)
def test_a_compiled_module_that_does_not_load_is_replaced_with_a_warning_that_names_the_cause(
    unchosen: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(sys, "meta_path", [ExtensionFinder(error), *sys.meta_path])
    with pytest.warns(RuntimeWarning, match=f"{error}.*another torch.*pip install"):
        ops.install()
    assert ops.is_standin()


def test_an_absent_compiled_module_is_replaced_in_silence(
    unchosen: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = ModuleNotFoundError("No module named 'mmcv._ext'", name=ops.EXTENSION)
    monkeypatch.setattr(sys, "meta_path", [ExtensionFinder(absent), *sys.meta_path])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.install()
    assert ops.is_standin()


def test_demanding_compiled_kernels_where_there_are_none_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = ModuleNotFoundError("No module named 'mmcv._ext'", name=ops.EXTENSION)
    monkeypatch.setattr(sys, "meta_path", [ExtensionFinder(absent), *sys.meta_path])
    monkeypatch.setenv(ops.SWITCH, "compiled")
    with pytest.raises(ImportError, match="pip install"):
        ops.install()
    assert ops.is_standin()  # as before


def test_a_misspelt_choice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ops.SWITCH, "stand-in")
    with pytest.raises(ValueError, match="must be one of auto, standin, compiled"):
        ops.install()


def test_without_mmcv_the_error_says_what_to_install(
    unchosen: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = ModuleNotFoundError("No module named 'mmcv'", name="mmcv")
    monkeypatch.setattr(sys, "meta_path", [ExtensionFinder(absent), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match=r"pip install -c constraints\.txt onedl-mmcv"):
        ops.install()
