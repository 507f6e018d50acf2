"""The page of what converts is the code's, and each of its rows is true."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch

from sparc_pretrain.convert.catalogue import CONVERTS, REFUSED, page
from sparc_pretrain.convert.from_hf import kind_of
from sparc_pretrain.towers.vision import VisionTower, check_arch
from tests.commands import ROOT
from tests.convert import sources


def test_the_page_is_the_catalogues() -> None:
    assert (ROOT / "docs" / "conversions.md").read_text() == page()


def test_each_family_has_a_case_that_is_converted_and_each_case_a_family() -> None:
    libraries = {"timm": sources.TIMM, "hf": sources.HF, "open_clip": sources.OPEN_CLIP}
    listed = {case for row in CONVERTS for case in row.cases}
    known = {f"{library}:{case}" for library, cases in libraries.items() for case in cases}
    assert listed <= known
    general = {
        "timm:norm_after_pool",
        "timm:quickgelu",
        "open_clip:layer_scale",
        "open_clip:avg_no_pre_norm",
        "open_clip:timm_linear",
        "open_clip:pe_core",
    }
    assert known - listed == general  # variants of no family of their own


@pytest.mark.parametrize("row", CONVERTS, ids=lambda row: row.family)
def test_names_of_timm_on_the_page_are_plain_towers_of_its(row) -> None:
    for name in row.names:
        arch = name.partition(".")[0]
        if "/" not in name and ":" not in name:
            assert timm.is_model(arch) and name in timm.list_pretrained(f"{arch}*")
            check_arch(arch)


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.case)
def test_what_the_page_calls_refused_is_refused_with_that_reason(row) -> None:
    with pytest.raises(ValueError, match=row.why), torch.device("meta"):
        if timm.is_model(row.case):
            VisionTower(row.case)
        else:
            kind_of(SimpleNamespace(model_type=row.case), row.name)
