"""Regions against slow loops; COCO and LVIS files; a model that knows what is in every box."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sparc_pretrain.zeroshot import regions
from sparc_pretrain.zeroshot.patch_reader import PatchReader
from sparc_pretrain.zeroshot.regions import (
    RegionImage,
    detections,
    evaluate,
    read_regions,
    region_metrics,
    region_states,
)
from tests.zeroshot.oracle_model import NAMES, oracle, paint, turned

THINGS = {"dog": (1, 1, 3, 4), "ball": (5, 0, 7, 2), "car": (4, 4, 8, 8)}  # x0 y0 x1 y1, cells
WIDE, HIGH = 16, 12  # pixels of a cell


def write(folder, lvis: bool = False) -> dict:
    """Two pictures of 8 x 8 cells and their boxes; with LVIS's fields images are named by url."""
    images, annotations = [], []
    for number in (1, 2):
        labels = np.zeros((8, 8), int)
        image = {"id": number, "width": 8 * WIDE, "height": 8 * HIGH}
        for name, (x0, y0, x1, y1) in THINGS.items():
            labels[y0:y1, x0:x1] = NAMES.index(name)
            box = [WIDE * x0, HIGH * y0, WIDE * (x1 - x0), HIGH * (y1 - y0)]
            annotation = {"id": len(annotations) + 1, "image_id": number, "bbox": box}
            annotation |= {"category_id": 10 * NAMES.index(name), "area": box[2] * box[3]}
            annotations.append(annotation if lvis else {**annotation, "iscrowd": 0})
        paint(folder / "val2017" / f"{number}.png", labels, cell=(HIGH, WIDE))
        if lvis:
            image |= {"coco_url": f"http://images.cocodataset.org/val2017/{number}.png"}
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        else:
            image |= {"file_name": f"val2017/{number}.png"}
        images.append(image)
    frequency = dict(zip(NAMES, "frcffr", strict=True))
    categories = [
        {"id": 10 * k, "name": name} | ({"frequency": frequency[name]} if lvis else {})
        for k, name in enumerate(NAMES)
    ]
    data = {"images": images, "annotations": annotations, "categories": categories[::-1]}
    (folder / "boxes.json").write_text(json.dumps(data))
    return data


def test_a_box_on_whole_patches_has_their_mean():
    state = torch.randn(5, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = torch.tensor([[1.0, 2, 4, 5], [0, 0, 8, 6], [3, 3, 4, 4]])
    found = region_states(state, boxes)
    for row, (x0, y0, x1, y1) in zip(found, boxes.int().tolist(), strict=True):
        cells = [state[:, y, x] for y in range(y0, y1) for x in range(x0, x1)]
        assert torch.allclose(row, sum(cells) / len(cells), atol=1e-12)


def test_a_box_smaller_than_a_patch_reads_between_patches():
    state = torch.tensor([[[0.0, 1.0, 3.0]]])
    found = region_states(state, torch.tensor([[0.9, 0.2, 1.1, 0.8], [1.9, 0, 2.1, 1]]))
    assert found.flatten().tolist() == pytest.approx([0.5, 2.0])


@pytest.mark.parametrize("lvis", [False, True])
@pytest.mark.parametrize("head", ["global", "local"])
def test_a_model_that_knows_the_objects_names_every_box(tmp_path, lvis, head):
    write(tmp_path, lvis)
    data = read_regions(tmp_path, tmp_path / "boxes.json")
    assert data.names == NAMES and data.ids == [0, 10, 20, 30, 40, 50]
    found = evaluate(oracle(64), data, reader=PatchReader(head))
    assert found.metrics == dict.fromkeys(found.metrics, 1.0)
    groups = {"mean_per_class_rare", "mean_per_class_common", "mean_per_class_frequent"}
    assert (groups <= found.metrics.keys()) == lvis
    assert found.items["top1"] == [1.0] * 6 and found.owners == [0, 0, 0, 1, 1, 1]
    assert found.protocol["boxes"] == 6 and found.protocol["classes_with_boxes"] == 3
    best = {}
    for row in found.extra["results"]:
        key = (row["image_id"], *row["bbox"])
        best[key] = max(best.get(key, (0, 0)), (row["score"], row["category_id"]))
    truth = json.loads((tmp_path / "boxes.json").read_text())["annotations"]
    assert len(best) == 6
    for annotation in truth:
        key = (annotation["image_id"], *map(float, annotation["bbox"]))
        assert best[key][1] == annotation["category_id"] and best[key][0] > 0.99


def test_categories_of_one_spoken_name_are_told_apart(tmp_path):
    data = write(tmp_path)
    by_name = {category["name"]: category for category in data["categories"]}
    by_name["dog"]["name"], by_name["sheep"]["name"] = "animal_(dog)", "animal_(sheep)"
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    found = evaluate(oracle(64), read_regions(tmp_path, tmp_path / "boxes.json"))
    assert found.metrics["top1"] == 1.0


def test_a_model_without_preference_names_none(tmp_path):
    write(tmp_path)
    model = oracle(64)
    torch.nn.init.zeros_(model.adapters.g_v.weight)
    found = evaluate(model, read_regions(tmp_path, tmp_path / "boxes.json"))
    assert found.metrics["top1"] == found.metrics["top5"] == 0  # ties count against it


def test_the_region_takes_the_path_of_whole_images(tmp_path):
    """h_v after pooling, as the global loss trains it: a box round the image is the image."""
    torch.manual_seed(0)
    model = oracle(64)
    torch.nn.init.normal_(model.adapters.h_v[0].weight)
    image = torch.randint(0, 256, (3, 64, 64)).byte()
    box = torch.tensor([[0.0, 0, 64, 64]])
    with torch.no_grad():
        found = regions.region_embeddings(model, image, box, 64)
        wanted = model.encode_image(image[None], normalize=True)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_pacl_is_read_through_its_embedder(tmp_path):
    write(tmp_path)
    data = read_regions(tmp_path, tmp_path / "boxes.json")
    model, objective = turned()
    found = evaluate(model, data, reader=PatchReader.of(objective))
    assert found.metrics["top1"] == 1.0
    assert found.protocol["head"] == "Pacl.dense_patches(g_v(region))"
    assert evaluate(model, data, reader=PatchReader("local")).metrics["top1"] == 0


def test_means_per_class_and_group_equal_slow_loops():
    generator = torch.Generator().manual_seed(0)
    ranks = torch.randint(1, 4, (60,), generator=generator)
    labels = torch.randint(0, 5, (60,), generator=generator)
    groups = [*"rrcff", "f"]  # the last class has no box
    found = region_metrics(ranks, labels, groups)
    share = {}
    for k in range(5):
        own = [r for r, y in zip(ranks.tolist(), labels.tolist(), strict=True) if y == k]
        share[k] = sum(r == 1 for r in own) / len(own)
    assert found["mean_per_class"] == pytest.approx(sum(share.values()) / 5)
    assert found["mean_per_class_rare"] == pytest.approx((share[0] + share[1]) / 2)
    assert found["mean_per_class_common"] == pytest.approx(share[2])
    assert found["mean_per_class_frequent"] == pytest.approx((share[3] + share[4]) / 2)
    assert region_metrics(ranks, labels, []).keys() == {"top1", "top5", "mean_per_class"}


def test_detections_are_softmax_scores_and_the_best_of_an_image_are_kept(tmp_path):
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 3]])
    item = RegionImage(7, tmp_path, (8, 8), boxes, [0, 1])
    cosine = torch.tensor([[0.1, 0.12, 0.1], [0.3, 0.2, 0.25]])
    rows = detections(item, cosine, ids=[5, 6, 9])
    assert len(rows) == 6 and {row["image_id"] for row in rows} == {7}
    for row in rows:
        box = 0 if row["bbox"] == [0, 0, 2, 2] else 1
        weights = (100 * cosine[box].double()).exp()
        k = [5, 6, 9].index(row["category_id"])
        assert row["score"] == pytest.approx((weights[k] / weights.sum()).item())
    assert rows == sorted(rows, key=lambda row: -row["score"])
    assert detections(item, cosine, [5, 6, 9], limit=2) == rows[:2]


def test_crowds_and_empty_boxes_are_left_out(tmp_path):
    data = write(tmp_path)
    data["annotations"][0]["iscrowd"] = 1
    data["annotations"][1]["bbox"][2] = 0
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    found = read_regions(tmp_path, tmp_path / "boxes.json")
    assert [len(image.labels) for image in found.images] == [1, 3]
    assert len(read_regions(tmp_path, tmp_path / "boxes.json", limit=1).images) == 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda d: d.pop("categories"), ValueError, "no COCO or LVIS file"),
        (lambda d: d["annotations"][0].update(image_id="1"), ValueError, "listed is 1"),
        (lambda d: d["annotations"][0].update(bbox=[0, 0, float("nan"), 1]), ValueError, "the box"),
        (lambda d: d["annotations"][0].update(bbox=[1e4, 0, 9, 9]), ValueError, "lies outside of"),
        (lambda d: d["annotations"][0].update(bbox=[0, -9, 9, 9]), ValueError, "lies outside of"),
        (
            lambda d: d["categories"][0].update(name=" "),
            ValueError,
            r"categories\[0\] has no 'name'",
        ),
        (lambda d: d["images"][0].pop("height"), ValueError, "no height and width"),
        (lambda d: d["annotations"].clear(), ValueError, "no boxes"),
        (lambda d: d["categories"].pop(0) and d["categories"].clear(), ValueError, "not listed"),
        (lambda d: d["images"][0].update(file_name="x.jpg"), FileNotFoundError, "x.jpg is missing"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path, change, error, words):
    data = write(tmp_path)
    change(data)
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    with pytest.raises(error, match=words):
        read_regions(tmp_path, tmp_path / "boxes.json")
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        read_regions(tmp_path, tmp_path / "none.json")


def test_options_and_images_that_do_not_fit_are_refused(tmp_path):
    data = write(tmp_path)
    found = read_regions(tmp_path, tmp_path / "boxes.json")
    with pytest.raises(ValueError, match="no multiple of the patch"):
        evaluate(oracle(64), found, size=100)
    data["images"][0]["width"] = 100
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"1\.png has \(H, W\) = \(96, 128\)"):
        evaluate(oracle(64), read_regions(tmp_path, tmp_path / "boxes.json"))
