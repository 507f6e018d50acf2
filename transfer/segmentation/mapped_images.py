"""MappedImages: the images of a folder that have a semantic map, where only some of them do.

It derives from mmseg's data set, whose import takes seconds: configs name this module in
`custom_imports`.
"""

from __future__ import annotations

from pathlib import Path

from mmseg.datasets import BaseSegDataset

from sparc_pretrain.registry import DATASETS


@DATASETS.register_module()
class MappedImages(BaseSegDataset):
    """mmseg's BaseSegDataset without the images that have no map (COCO photographs of which some
    are annotated); the arguments are the same.

    Raises:
        ValueError: no image has a map.
    """

    def load_data_list(self) -> list[dict]:
        """One dict per image that has a map."""
        found = super().load_data_list()
        kept = [row for row in found if Path(row["seg_map_path"]).is_file()]
        if not kept:
            raise ValueError(
                f"none of {len(found)} images of {self.data_prefix['img_path']} has a map in "
                f"{self.data_prefix['seg_map_path']}"
            )
        return kept
