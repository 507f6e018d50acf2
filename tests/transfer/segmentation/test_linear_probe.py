"""The linear probe is a batch norm and one linear function, and nothing else."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from tests.commands import ROOT
from transfer import mm
from transfer.mm.norms import single_process_norms


@pytest.mark.parametrize("name", ["seg/sparc_ade20k_linear", "camvid/linear_cached"])
def test_the_probe_normalises_and_is_linear(name: str) -> None:
    mm.register("mmseg")
    cfg = Config.fromfile(ROOT / "configs" / f"{name}.py")
    single_process_norms(cfg.model)
    with DefaultScope.overwrite_default_scope("mmseg"):
        head = MODELS.build(cfg.model.decode_head)
    width, classes = cfg.model.decode_head.in_channels, cfg.model.decode_head.num_classes
    assert {n: tuple(p.shape) for n, p in head.named_parameters()} == {
        "conv_seg.weight": (classes, width, 1, 1),
        "conv_seg.bias": (classes,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    torch.manual_seed(0)
    map_BChw = 5 + 3 * torch.randn(4, width, 6, 6)
    head.train().dropout = None
    found = head((map_BChw,))
    flat = (map_BChw - map_BChw.mean((0, 2, 3), keepdim=True)) / (
        map_BChw.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5
    ).sqrt()
    expected = torch.einsum("bchw,kc->bkhw", flat, head.conv_seg.weight[:, :, 0, 0])
    torch.testing.assert_close(
        found, expected + head.conv_seg.bias[:, None, None], atol=1e-4, rtol=1e-4
    )
