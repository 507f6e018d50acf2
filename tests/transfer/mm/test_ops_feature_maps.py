"""The stand-in's kernels on feature maps (CARAFE, PSAMask, MaskedConv2d, deformable pooling,
MMSyncBN, lanes), and mmcv's layers without a kernel of their own, against slow loops in float64.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, distributed
from torch.autograd import gradcheck
from torch.nn import functional

from tests.transfer.mm.inputs import HALVES, mmcv_ops, random
from transfer.mm.ops import boxes, norm, reassembly

pytestmark = pytest.mark.usefixtures("standin")


# --- CARAFE --------------------------------------------------------------------------------------

CARAFES = [(3, 2, 2), (5, 1, 2), (3, 1, 3), (1, 4, 1)]  # kernel, groups, scale


def carafe_inputs(kernel: int, groups: int, scale: int) -> tuple[Tensor, Tensor]:
    masks = random(2, kernel**2 * groups, 3 * scale, 4 * scale, seed=1)
    return random(2, 4, 3, 4), masks


def carafe_loop(features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    images, channels, height, width = features.shape
    result = torch.zeros(images, channels, height * scale, width * scale, dtype=torch.float64)
    for n in range(images):
        for c in range(channels):
            group = c // (channels // groups)
            for i in range(height * scale):
                for j in range(width * scale):
                    for k in range(kernel**2):
                        y = i // scale + k // kernel - kernel // 2
                        x = j // scale + k % kernel - kernel // 2
                        if 0 <= y < height and 0 <= x < width:
                            weight = masks[n, group * kernel**2 + k, i, j]
                            result[n, c, i, j] += weight * features[n, c, y, x]
    return result


@pytest.mark.parametrize("kernel,groups,scale", CARAFES)
def test_carafe_equals_the_loop_and_finite_differences(
    kernel: int, groups: int, scale: int
) -> None:
    features, masks = carafe_inputs(kernel, groups, scale)
    expected = carafe_loop(features, masks, kernel, groups, scale)
    for layer in (mmcv_ops.CARAFE, mmcv_ops.CARAFENaive):
        torch.testing.assert_close(layer(kernel, groups, scale)(features, masks), expected)
    inputs = (features.requires_grad_(), masks.requires_grad_())
    assert gradcheck(mmcv_ops.CARAFE(kernel, groups, scale), inputs, fast_mode=True)


def test_naive_carafe_has_the_gradients_of_carafe() -> None:
    """Its kernel is called here itself: mmcv's function lets its gradient run on CUDA only."""
    features, masks = (tensor.requires_grad_() for tensor in carafe_inputs(3, 2, 2))
    output = mmcv_ops.carafe(features, masks, 3, 2, 2)
    towards = random(*output.shape, seed=2)
    expected = torch.autograd.grad(output, (features, masks), towards)
    found = torch.zeros_like(features), torch.zeros_like(masks)
    reassembly.carafe_naive_backward(
        towards, features.detach(), masks.detach(), *found, kernel_size=3, group_size=2,
        scale_factor=2,
    )  # fmt: skip
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_carafe_whose_masks_choose_the_middle_is_the_nearest_neighbour() -> None:
    features, masks = carafe_inputs(3, 1, 2)
    masks.zero_()[:, 4] = 1
    nearest = functional.interpolate(features, scale_factor=2, mode="nearest")
    assert torch.equal(mmcv_ops.carafe(features, masks, 3, 1, 2), nearest)


def test_carafe_of_no_images_is_none() -> None:
    """A mask head gets no regions where a batch has no positive ones."""
    features, masks = torch.zeros(0, 4, 3, 4), torch.zeros(0, 9, 6, 8)
    for layer in (mmcv_ops.CARAFE, mmcv_ops.CARAFENaive):
        features.requires_grad_()
        output = layer(3, 1, 2)(features, masks)
        assert output.shape == (0, 4, 6, 8)
    mmcv_ops.CARAFE(3, 1, 2)(features, masks).sum().backward()
    assert features.grad.shape == features.shape


# --- PSAMask -------------------------------------------------------------------------------------


def psa_loop(masks: Tensor, kind: str, mask: tuple[int, int]) -> Tensor:
    images, _, height, width = masks.shape
    result = torch.zeros(images, height, width, height, width, dtype=masks.dtype)
    for n in range(images):
        for h in range(height):
            for w in range(width):
                for i in range(mask[0]):
                    for j in range(mask[1]):
                        y, x = h + i - (mask[0] - 1) // 2, w + j - (mask[1] - 1) // 2
                        if 0 <= y < height and 0 <= x < width:
                            place = (y, x, h, w) if kind == "collect" else (h, w, y, x)
                            result[(n, *place)] = masks[n, i * mask[1] + j, h, w]
    return result.flatten(1, 2)


@pytest.mark.parametrize("kind", ["collect", "distribute"])
@pytest.mark.parametrize("mask", [(3, 5), (7, 5), (2, 4)])
def test_psa_mask_equals_the_loop_and_finite_differences(kind: str, mask: tuple[int, int]) -> None:
    masks = random(2, mask[0] * mask[1], 4, 3)
    layer = mmcv_ops.PSAMask(kind, mask)
    assert torch.equal(layer(masks), psa_loop(masks, kind, mask))
    assert gradcheck(layer, masks.requires_grad_())


def test_psa_mask_of_no_images_is_none() -> None:
    masks = torch.zeros(0, 9, 4, 3, requires_grad=True)
    output = mmcv_ops.PSAMask("collect", (3, 3))(masks)
    output.sum().backward()
    assert output.shape == (0, 12, 4, 3) and masks.grad.shape == masks.shape


@pytest.mark.parametrize("kind", ["collect", "distribute"])
@pytest.mark.parametrize("dtype", HALVES)
def test_psa_mask_moves_half_types_unchanged(kind: str, dtype: torch.dtype) -> None:
    masks = random(1, 9, 3, 3, dtype=dtype).requires_grad_()
    output = mmcv_ops.PSAMask(kind, (3, 3))(masks)
    output.sum().backward()
    assert torch.equal(output, psa_loop(masks.detach(), kind, (3, 3)))
    assert output.dtype == masks.grad.dtype == dtype


# --- MaskedConv2d --------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel,padding", [(3, 1), (1, 0), (5, 2)])
def test_masked_conv_is_the_convolution_where_the_mask_is_set_and_zero_elsewhere(
    kernel: int, padding: int
) -> None:
    layer = mmcv_ops.MaskedConv2d(3, 4, kernel, padding=padding).double()
    x, mask = random(1, 3, 5, 6), random(1, 5, 6, seed=1) > 0
    with torch.no_grad():
        torch.testing.assert_close(layer(x, mask), layer(x) * mask[:, None])
        assert not layer(x, mask & False).any()
    assert 0 < mask.sum() < mask.numel()


def test_masked_conv_refuses_a_mask_that_reaches_beyond_its_output() -> None:
    layer = mmcv_ops.MaskedConv2d(1, 1, 3)
    with pytest.raises(IndexError):
        layer(torch.ones(1, 1, 4, 4), torch.ones(1, 4, 4))


# --- deformable pooling --------------------------------------------------------------------------

ROIS = torch.tensor(
    [
        [0, 1.3, 2.1, 9.7, 8.2],
        [1, 0.2, 0.4, 15.3, 11.9],  # the whole map
        [1, -6.0, -5.0, 4.2, 3.1],  # half outside
        [0, 3.1, 3.2, 3.6, 3.9],  # smaller than a cell
        [1, 40.0, 40.0, 50.0, 50.0],  # wholly outside
    ],
    dtype=torch.float64,
)


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


def deform_pool_loop(
    maps: Tensor, offset: Tensor, scale: float, ratio: int, gamma: float
) -> Tensor:
    bins = offset.shape[2:]
    result = torch.zeros(len(ROIS), maps.shape[1], *bins, dtype=torch.float64)
    for r, roi in enumerate(ROIS.tolist()):
        x1, y1, x2, y2 = (value * scale - 0.5 for value in roi[1:])
        height, width = y2 - y1, x2 - x1
        bin_h, bin_w = height / bins[0], width / bins[1]
        grid_h, grid_w = (ratio, ratio) if ratio else (math.ceil(bin_h), math.ceil(bin_w))
        for p in range(bins[0]):
            for q in range(bins[1]):
                left = x1 + gamma * width * offset[r, 0, p, q].item() + q * bin_w
                top = y1 + gamma * height * offset[r, 1, p, q].item() + p * bin_h
                for c in range(maps.shape[1]):
                    samples = [
                        bilinear(
                            maps[int(roi[0]), c],
                            top + (i + 0.5) * bin_h / grid_h,
                            left + (j + 0.5) * bin_w / grid_w,
                        )
                        for i in range(grid_h)
                        for j in range(grid_w)
                    ]
                    result[r, c, p, q] = sum(samples) / len(samples)
    return result


@pytest.mark.parametrize("ratio", [0, 2])
def test_deformable_pooling_equals_the_loop_and_finite_differences(ratio: int) -> None:
    maps, offset = random(2, 2, 6, 8).requires_grad_(), random(5, 2, 3, 2, seed=1).requires_grad_()
    layer = mmcv_ops.DeformRoIPool((3, 2), 0.5, ratio, 0.3)
    expected = deform_pool_loop(maps.detach(), offset, 0.5, ratio, 0.3)
    torch.testing.assert_close(layer(maps, ROIS, offset), expected)
    assert gradcheck(lambda x, moves: layer(x, ROIS, moves), (maps, offset), fast_mode=True)
    aligned = mmcv_ops.roi_align(maps, ROIS, (3, 2), 0.5, ratio, "avg", True)
    torch.testing.assert_close(layer(maps, ROIS), aligned)
    assert gradcheck(lambda x: layer(x, ROIS), maps, fast_mode=True)


def test_deformable_pooling_of_empty_regions_is_zero_and_sends_nothing_back() -> None:
    maps = random(1, 1, 4, 4).requires_grad_()
    rois = torch.tensor([[0.0, 2.0, 2.0, 2.0, 2.0]], dtype=torch.float64)
    pooled = mmcv_ops.DeformRoIPool(2)(maps, rois)
    pooled.sum().backward()
    assert not pooled.any() and not maps.grad.any()
    assert mmcv_ops.DeformRoIPool(2)(maps, rois[:0]).shape == (0, 1, 2, 2)


@pytest.mark.parametrize("name", ["DeformRoIPoolPack", "ModulatedDeformRoIPoolPack"])
@pytest.mark.parametrize("dtype", HALVES)
def test_deformable_pooling_packs_train_under_autocast(name: str, dtype: torch.dtype) -> None:
    pack = getattr(mmcv_ops, name)(2, 3, 8, 0.5)
    maps = random(2, 3, 6, 8, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype):
        pooled = pack(maps.to(dtype), ROIS.float())
    pooled.float().square().mean().backward()
    assert pack.offset_fc[-1].weight.grad.abs().sum() > 0 and maps.grad.abs().sum() > 0
    with torch.no_grad():
        whole = pack(maps, ROIS.float())
    torch.testing.assert_close(pooled.float(), whole, atol=2e-2, rtol=2e-2)


# --- MMSyncBN ------------------------------------------------------------------------------------


@pytest.fixture
def one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (6, 3)])
def test_sync_bn_of_one_process_is_batch_norm(one_process: None, shape: tuple[int, ...]) -> None:
    if len(shape) == 2:
        shape = (*shape, 1)
    mine = mmcv_ops.SyncBatchNorm(3)
    plain = torch.nn.BatchNorm2d(3) if len(shape) == 4 else torch.nn.BatchNorm1d(3)
    plain.load_state_dict(mine.state_dict())
    inputs = [random(*shape, dtype=torch.float32).requires_grad_() for _ in range(2)]
    towards = random(*shape, seed=1, dtype=torch.float32)
    for layer, x in zip((mine, plain), inputs, strict=True):
        (layer(x) * towards).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(mine.weight.grad, plain.weight.grad)
    torch.testing.assert_close(mine.bias.grad, plain.bias.grad)
    torch.testing.assert_close(dict(mine.state_dict()), dict(plain.state_dict()))
    torch.testing.assert_close(mine(inputs[0]), plain(inputs[1]))
    half = mine(inputs[0].half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), mine(inputs[0]), atol=1e-2, rtol=1e-2)


def test_the_steps_of_sync_bn_have_the_gradient_of_their_formula_in_float64() -> None:
    """Without mmcv's function, which takes no float64."""
    x, weight, bias = random(3, 2, 4), random(2, seed=1), random(2, seed=2)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    centred = x - x.mean((0, 2), keepdim=True)
    std = (centred.square().mean((0, 2), keepdim=True) + 1e-3).sqrt()
    formula = centred / std * weight[:, None] + bias[:, None]
    towards = random(3, 2, 4, seed=3)
    expected = torch.autograd.grad(formula, inputs, towards)
    with torch.no_grad():
        mean, var, scale = (torch.zeros(2, dtype=torch.float64) for _ in range(3))
        normed, output, to_x = (torch.zeros_like(x) for _ in range(3))
        to_weight, to_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        norm.sync_bn_forward_mean(x, mean)
        norm.sync_bn_forward_var(x, mean, var)
        norm.sync_bn_forward_output(
            x, mean, var, weight, bias, None, None, normed, scale, output, 1e-3, 0.1, 1
        )
        norm.sync_bn_backward_param(towards, normed, to_weight, to_bias)
        norm.sync_bn_backward_data(towards, weight, to_weight, to_bias, normed, scale, to_x)
    torch.testing.assert_close(output, formula.detach())
    for found, wanted in zip((to_x, to_weight, to_bias), expected, strict=True):
        torch.testing.assert_close(found, wanted)


# --- lanes ---------------------------------------------------------------------------------------


def lane(x: float, first: int = 0, rows: int = 8, length: int = 8) -> list[float]:
    return [0.0, 1.0, first / (rows - 1), x, float(length), *([x] * rows)]


def test_line_nms_keeps_the_best_of_lanes_nearer_than_the_threshold() -> None:
    lanes = torch.tensor([lane(14.0), lane(10.0), lane(50.0), lane(52.5), lane(11.0)])
    scores = torch.tensor([0.5, 0.9, 0.8, 0.7, 0.6])
    keep, number, parent = mmcv_ops.line_nms(lanes, scores, overlap=3.0, top_k=5)
    assert keep[:number].tolist() == [1, 2, 0] and keep[number:].tolist() == [0, 0]
    assert parent.tolist() == [3, 1, 2, 2, 1]
    assert mmcv_ops.line_nms(lanes, scores, overlap=3.0, top_k=2)[1] == 2
    assert mmcv_ops.line_nms(lanes[:0], scores[:0], overlap=3.0, top_k=2)[1] == 0


def test_line_nms_compares_only_the_rows_that_two_lanes_share() -> None:
    above, below = lane(10.0, first=0, length=4), lane(10.0, first=4, length=4)
    lanes, scores = torch.tensor([above, below]), torch.tensor([0.9, 0.8])
    assert mmcv_ops.line_nms(lanes, scores, overlap=3.0, top_k=2)[1] == 2
    touching = torch.tensor([above, lane(10.0, first=3, length=4)])
    assert mmcv_ops.line_nms(touching, scores, overlap=3.0, top_k=2)[1] == 1


@pytest.mark.parametrize("seed", range(3))
def test_line_nms_equals_the_loop_over_lanes_and_rows(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lanes = torch.rand(20, 5 + 12, generator=generator) * 10
    lanes[:, 2] = torch.rand(20, generator=generator)
    lanes[:, 4] = torch.randint(0, 12, (20,), generator=generator)
    scores = torch.rand(20, generator=generator)
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        for better in kept:
            a, b = lanes[better].tolist(), lanes[index].tolist()
            starts = [int(one[2] * 11 + 0.5) for one in (a, b)]
            ends = [start + int(one[4]) - 1 for start, one in zip(starts, (a, b), strict=True)]
            rows = range(max(starts), min(*ends, 11) + 1)
            if rows and sum(abs(a[5 + i] - b[5 + i]) for i in rows) < 3.0 * len(rows):
                break
        else:
            kept.append(index)
    keep, number, _ = boxes.line_nms_forward(lanes, scores, 3.0, 20)
    assert keep[:number].tolist() == kept
    assert 3 < len(kept) < 20


# --- layers of mmcv that call no kernel of their own ---------------------------------------------


def test_corner_pool_is_the_greatest_value_so_far_and_passes_its_gradient() -> None:
    x = random(1, 2, 4, 5).requires_grad_()
    ends = {"top": (2, True), "bottom": (2, False), "left": (3, True), "right": (3, False)}
    for mode, (dim, backwards) in ends.items():
        found = mmcv_ops.CornerPool(mode)(x)
        for i in range(x.shape[dim]):
            part = x.narrow(dim, i, x.shape[dim] - i) if backwards else x.narrow(dim, 0, i + 1)
            assert torch.equal(found.select(dim, i), part.amax(dim))
        assert gradcheck(mmcv_ops.CornerPool(mode), x)


def test_criss_cross_attention_equals_the_loop_over_rows_and_columns() -> None:
    layer = mmcv_ops.CrissCrossAttention(8).double()
    layer.gamma.scale.data.fill_(0.7)
    x = random(1, 8, 3, 4)
    query, key, value = (
        part(x)[0] for part in (layer.query_conv, layer.key_conv, layer.value_conv)
    )
    expected = x[0].clone()
    for h in range(3):
        for w in range(4):
            cross = [(i, w) for i in range(3) if i != h] + [(h, j) for j in range(4)]
            energy = torch.stack([query[:, h, w] @ key[:, i, j] for i, j in cross]).softmax(0)
            for weight, (i, j) in zip(energy, cross, strict=True):
                expected[:, h, w] = expected[:, h, w] + 0.7 * weight * value[:, i, j]
    torch.testing.assert_close(layer(x)[0], expected)
    assert gradcheck(layer, x.requires_grad_(), fast_mode=True)


def test_switchable_atrous_convolution_without_displacement_equals_the_undeformed_one() -> None:
    x = random(1, 4, 7, 7).requires_grad_()
    deforming, plain = (
        mmcv_ops.SAConv2d(4, 4, 3, padding=1, use_deform=use).double() for use in (True, False)
    )
    for name, parameter in plain.named_parameters():
        parameter.data.copy_(random(*parameter.shape, seed=len(name)) * 0.3)
        deforming.get_parameter(name).data.copy_(parameter.data)
    plain.bias.data.zero_()  # the deformable branch has none
    plain.weight_gamma.copy_(deforming.weight_gamma.normal_(generator=torch.manual_seed(0)))
    torch.testing.assert_close(deforming(x), plain(x))
    assert gradcheck(deforming, x, fast_mode=True)


def test_deformable_attention_equals_the_loop_over_queries_heads_levels_and_points() -> None:
    shapes = torch.tensor([[3, 4], [2, 2]])
    value, where = random(1, 16, 2, 3), random(1, 5, 2, 2, 2, 2, seed=1).sigmoid()
    weights = random(1, 5, 2, 4, seed=2).softmax(-1).view(1, 5, 2, 2, 2)
    expected = torch.zeros(1, 5, 6, dtype=torch.float64)
    levels = [
        part.unflatten(1, tuple(s))
        for part, s in zip(value.split([12, 4], 1), shapes.tolist(), strict=True)
    ]
    for query in range(5):
        for head in range(2):
            for level, maps in enumerate(levels):
                for point in range(2):
                    x, y = where[0, query, head, level, point].tolist()
                    row, column = y * maps.shape[1] - 0.5, x * maps.shape[2] - 0.5
                    for i in range(math.floor(row), math.floor(row) + 2):
                        for j in range(math.floor(column), math.floor(column) + 2):
                            if 0 <= i < maps.shape[1] and 0 <= j < maps.shape[2]:
                                near = (1 - abs(row - i)) * (1 - abs(column - j))
                                factor = near * weights[0, query, head, level, point]
                                part = slice(head * 3, head * 3 + 3)
                                expected[0, query, part] += factor * maps[0, i, j, head]
    module = importlib.import_module("mmcv.ops.multi_scale_deform_attn")
    starts = torch.tensor([0, 12])
    found = module.MultiScaleDeformableAttnFunction.apply(value, shapes, starts, where, weights, 64)
    torch.testing.assert_close(found, expected)


# --- autocast ------------------------------------------------------------------------------------

LAYERS = {
    "carafe": (lambda: mmcv_ops.CARAFEPack(16, 2, compressed_channels=8), 16),
    "DCN": (lambda: mmcv_ops.DeformConv2dPack(16, 16, 3, padding=1), 16),
    "DCNv2": (lambda: mmcv_ops.ModulatedDeformConv2dPack(16, 16, 3, padding=1), 16),
    "SAC": (lambda: mmcv_ops.SAConv2d(16, 16, 3, padding=1, use_deform=True), 16),
    "CrissCrossAttention": (lambda: mmcv_ops.CrissCrossAttention(16), 16),
    "PSAMask": (
        lambda: torch.nn.Sequential(torch.nn.Conv2d(16, 9, 1), mmcv_ops.PSAMask("collect", (3, 3))),
        16,
    ),
    "CornerPool": (
        lambda: torch.nn.Sequential(torch.nn.Conv2d(16, 4, 1), mmcv_ops.CornerPool("top")),
        16,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", HALVES)
def test_layers_train_under_autocast_and_stay_near_their_float32_values(
    name: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    build, channels = LAYERS[name]
    layer, x = build(), random(2, channels, 6, 6, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype):
        output = layer(x)
    output.float().square().mean().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters() if p.grad is not None)
    torch.testing.assert_close(output.float(), layer(x), atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("dtype", HALVES)
def test_masked_conv_and_deformable_attention_run_under_autocast(dtype: torch.dtype) -> None:
    conv = mmcv_ops.MaskedConv2d(3, 4, 3, padding=1)
    x, mask = random(1, 3, 5, 6, dtype=torch.float32), random(1, 5, 6, seed=1) > 0
    attention = mmcv_ops.MultiScaleDeformableAttention(32, 4, 1, 2, batch_first=True)
    attention.eval()  # no dropout
    query, where = random(2, 5, 32, dtype=torch.float32), torch.full((2, 5, 1, 2), 0.4)
    shapes = torch.tensor([[2, 3]])
    keys = random(2, 6, 32, seed=1, dtype=torch.float32)
    arguments = {"reference_points": where, "spatial_shapes": shapes}
    arguments["level_start_index"] = torch.tensor([0])

    def both() -> tuple[Tensor, Tensor]:
        return conv(x, mask), attention(query, value=keys, **arguments)

    with torch.autocast("cpu", dtype):
        narrow = both()
    narrow[1].float().sum().backward()
    assert attention.value_proj.weight.grad.abs().sum() > 0
    for found, wanted in zip(narrow, both(), strict=True):
        torch.testing.assert_close(found.float(), wanted, atol=5e-2, rtol=5e-2)
