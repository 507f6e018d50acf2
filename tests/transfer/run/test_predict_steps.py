"""What of a test pipeline is left for a photograph."""

from __future__ import annotations

import pytest

from tests.commands import tool


def test_truth_of_any_kind_is_left_out() -> None:
    of_a_photo = tool("predict").of_a_photo
    names = ["LoadImageFromFile", "Resize", "LoadPanopticAnnotations", "mmdet.LoadAnnotations"]
    steps = [dict(type=name) for name in [*names, "PackDetInputs"]]
    found = [step["type"] for step in of_a_photo(steps)]
    assert found == ["LoadImageFromFile", "Resize", "PackDetInputs"]
    with pytest.raises(ValueError, match="proposals"):
        of_a_photo([*steps, dict(type="LoadProposals")])
