"""Average precision against pycocotools, lvis-api and published numbers."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from sparc_pretrain.registry import METRICS
from transfer.detection.metrics import evaluate
from transfer.detection.run_lengths import encode

REFERENCES = Path(__file__).parents[4] / "shared" / "data" / "eval_refs"
real = pytest.mark.skipif(
    not REFERENCES.is_dir(), reason="the reference numbers in ../shared/data are not here"
)
HEIGHT, WIDTH = 150, 200
COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
LVIS_NAMES = (*COCO_NAMES, "APr", "APc", "APf")


def rle(box: list[float]) -> dict:
    """The mask of a box, as results files hold it."""
    x, y, w, h = box
    polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    mask = coco_mask.merge(coco_mask.frPyObjects(polygon, HEIGHT, WIDTH))
    return {"size": mask["size"], "counts": mask["counts"].decode()}


def make_set(seed: int, style: str = "coco", detections: int = 12) -> tuple[dict, list[dict]]:
    """Images, one without objects; crowds; a category without objects; equal scores; results.

    Some masks are too thin to cover a pixel.
    """
    draw = random.Random(seed)
    lvis = style == "lvis"

    def box() -> list[float]:
        side = draw.choice([10, 40, 120])
        w, h = draw.uniform(0.5, side), draw.uniform(2, side)
        x, y = draw.uniform(0, WIDTH - w), draw.uniform(0, HEIGHT - h)
        return [round(v, 2) for v in (x, y, w, h)]

    def detection(image: int, category: int, place: list[float]) -> dict:
        score = round(draw.random(), 1)
        return {
            "image_id": image,
            "category_id": category,
            "bbox": place,
            "score": score,
            "segmentation": rle(place),
        }

    categories = [
        {"id": 3 * i + 1, "name": f"kind {i}", "frequency": "rcf"[i % 3]} for i in range(4)
    ]
    ids = [c["id"] for c in categories]
    images = [{"id": i + 1, "width": WIDTH, "height": HEIGHT} for i in range(6)]
    annotations, results = [], []
    for image in images:
        if lvis:
            image["neg_category_ids"] = [i for i in ids if draw.random() < 0.5]
            image["not_exhaustive_category_ids"] = [i for i in ids if draw.random() < 0.3]
        results += [detection(image["id"], draw.choice(ids), box()) for _ in range(detections)]
        for _ in range(5 if image["id"] < 6 else 0):
            place, category = box(), draw.choice(ids[:-1])
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": category,
                "bbox": place,
                "area": 0.7 * place[2] * place[3],
                "segmentation": rle(place),
            }
            if not lvis:
                annotation["iscrowd"] = int(draw.random() < 0.15)
            annotations.append(annotation)
            for _ in range(2):
                near = [round(max(0.5, v + draw.gauss(0, 3)), 2) for v in place]
                results.append(detection(image["id"], category, near))
    return {"images": images, "categories": categories, "annotations": annotations}, results


def only(results: list[dict], iou_type: str) -> list[dict]:
    """Both oracles take an object's size from the box when there is one beside the mask."""
    other = "segmentation" if iou_type == "bbox" else "bbox"
    return [{k: v for k, v in copy.deepcopy(row).items() if k != other} for row in results]


def by_pycocotools(
    truth: dict, results: list[dict], iou_type: str, categories: list[int] | None = None
) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = copy.deepcopy(truth)
        index.createIndex()
        oracle = COCOeval(index, index.loadRes(only(results, iou_type)), iou_type)
        oracle.params.catIds = categories or oracle.params.catIds
        oracle.evaluate()
        oracle.accumulate()
        oracle.summarize()
    return dict(zip(COCO_NAMES, map(float, oracle.stats), strict=False))


def by_lvis(
    truth: dict, results: list[dict], iou_type: str, max_dets: int, folder: Path
) -> dict[str, float]:
    lvis = pytest.importorskip("lvis")
    path = folder / "truth.json"
    path.write_text(json.dumps(truth))
    index = lvis.LVIS(str(path))
    rows = lvis.LVISResults(index, only(results, iou_type), max_dets=max_dets)
    oracle = lvis.LVISEval(index, rows, iou_type)
    oracle.run()
    return {name: float(oracle.results[name]) for name in LVIS_NAMES}


@pytest.fixture
def old_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """lvis 0.5.3 says np.float, which numpy dropped."""
    monkeypatch.setattr(np, "float", float, raising=False)


def agree(ours: dict[str, float], other: dict[str, float]) -> None:
    assert set(ours) <= set(other)
    assert ours == pytest.approx({name: other[name] for name in ours}, abs=1e-9)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_coco_numbers_are_those_of_pycocotools(seed: int, iou_type: str) -> None:
    truth, results = make_set(seed)
    ours = evaluate(truth, results, iou_type)
    assert ours["AP"] > 0.02
    agree(ours, by_pycocotools(truth, results, iou_type))


@pytest.mark.usefixtures("old_numpy")
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed,max_dets", [(0, 300), (1, 5), (2, 2), (3, 1)])
def test_lvis_numbers_are_those_of_lvis_api(
    seed: int, max_dets: int, iou_type: str, tmp_path: Path
) -> None:
    truth, results = make_set(seed, "lvis")
    ours = evaluate(truth, results, iou_type, "lvis", max_dets)
    assert set(ours) == set(LVIS_NAMES)
    agree(ours, by_lvis(truth, results, iou_type, max_dets, tmp_path))


@pytest.mark.usefixtures("old_numpy")
def test_more_than_300_detections_per_image_count_when_asked_for(tmp_path: Path) -> None:
    truth, results = make_set(3, "lvis", detections=500)
    ours = evaluate(truth, results, style="lvis", max_dets=1000)
    agree(ours, by_lvis(truth, results, "bbox", 1000, tmp_path))
    assert ours != evaluate(truth, results, style="lvis")


@real
@pytest.mark.parametrize(
    "iou_type,published",
    [
        ("bbox", (0.5045806987249628, 0.6969727247299577, 0.5729816669904824)),
        ("segm", (0.3195452758576433, 0.5622883972521636, 0.29892653412086784)),
    ],
)
def test_published_coco_numbers_are_reproduced(iou_type: str, published: tuple) -> None:
    truth = REFERENCES / "cocoapi" / "instances_val2014_100.json"
    results = REFERENCES / "cocoapi" / f"instances_val2014_fake{iou_type}100_results.json"
    ours = evaluate(truth, results, iou_type)
    assert [ours[name] for name in COCO_NAMES[:3]] == pytest.approx(published, abs=1e-9)
    agree(
        ours,
        by_pycocotools(json.loads(truth.read_text()), json.loads(results.read_text()), iou_type),
    )


@real
@pytest.mark.usefixtures("old_numpy")
def test_the_lvis_reference_numbers_are_reproduced(tmp_path: Path) -> None:
    truth, results = (
        json.loads((REFERENCES / "lvis" / name).read_text())
        for name in ("lvis_val_100.json", "lvis_fake_results_100.json")
    )
    ours = evaluate(truth, results, style="lvis")
    expected = json.loads((REFERENCES / "lvis" / "lvis_fake_expected.json").read_text())["bbox"]
    agree(ours, expected)
    agree(ours, by_lvis(truth, results, "bbox", 300, tmp_path))


def test_no_detections_give_zero_and_no_objects_give_minus_one() -> None:
    truth, results = make_set(0)
    assert evaluate(truth, [])["AP"] == 0
    assert set(evaluate({**truth, "annotations": []}, results).values()) == {-1}
    assert set(evaluate({**truth, "annotations": []}, []).values()) == {-1}
    lvis_truth, _ = make_set(0, "lvis")
    assert evaluate(lvis_truth, [], style="lvis")["APr"] == 0


def test_an_annotation_with_id_zero_counts_like_any_other() -> None:
    truth, results = make_set(0)
    shifted = copy.deepcopy(truth)
    for annotation in shifted["annotations"]:
        annotation["id"] -= 1
    assert evaluate(shifted, results) == evaluate(truth, results)


def test_the_box_beside_a_mask_does_not_set_its_size() -> None:
    truth, results = make_set(1)
    without = only(results, "segm")
    assert evaluate(truth, results, "segm") == evaluate(truth, without, "segm")


def test_max_dets_keeps_the_best_of_each_image_and_category() -> None:
    truth, _ = make_set(0)
    first = next(a for a in truth["annotations"] if not a["iscrowd"])
    hit = {key: first[key] for key in ("image_id", "category_id", "bbox")}
    miss = {**hit, "bbox": [0, 0, 1, 1]}
    rows = [{**miss, "score": 0.9}, {**hit, "score": 0.5}]
    assert evaluate(truth, rows, max_dets=1)["AP"] == 0
    assert evaluate(truth, rows, max_dets=2)["AP"] > 0


@pytest.mark.parametrize(
    "change,message",
    [
        ({"image_id": 999}, "image 999, which the ground truth does not list"),
        ({"category_id": 999}, "category 999, which the ground truth does not list"),
        ({"score": float("nan")}, "detection 0 has score nan"),
        ({"score": float("inf")}, "detection 0 has score inf"),
        ({"bbox": [0.0, float("nan"), 1.0, 1.0]}, "not four numbers"),
        ({"bbox": [0.0, 1.0]}, "not four numbers"),
    ],
)
def test_a_detection_that_cannot_count_is_an_error(change: dict, message: str) -> None:
    truth, results = make_set(0)
    with pytest.raises(ValueError, match=message):
        evaluate(truth, [{**results[0], **change}])


def test_a_mask_of_another_size_than_its_image_is_an_error() -> None:
    truth, results = make_set(0)
    small = coco_mask.encode(np.ones((3, 4), np.uint8, order="F"))
    with pytest.raises(ValueError, match=r"mask of \[3, 4\], its image is of \[150, 200\]"):
        evaluate(truth, [{**results[0], "segmentation": small}], "segm")
    with pytest.raises(ValueError, match="no 'segmentation'"):
        evaluate(truth, only(results, "bbox"), "segm")


def test_ground_truth_that_is_not_lvis_or_not_whole_is_an_error(tmp_path: Path) -> None:
    truth, results = make_set(0)
    with pytest.raises(ValueError, match="lacks 'neg_category_ids' in 'images'"):
        evaluate(truth, results, style="lvis")
    with pytest.raises(ValueError, match="no list 'annotations'"):
        evaluate({k: v for k, v in truth.items() if k != "annotations"}, results)
    twice = {**truth, "images": [*truth["images"], truth["images"][0]]}
    with pytest.raises(ValueError, match=r"images\[6\] has the id 1, which another one has too"):
        evaluate(twice, results)
    stray = {**truth["annotations"][0], "id": 10_000, "image_id": 77}
    with pytest.raises(ValueError, match=r"annotations\[25\] is of an image that is not listed"):
        evaluate({**truth, "annotations": [*truth["annotations"], stray]}, results)
    with pytest.raises(FileNotFoundError):
        evaluate(tmp_path / "nothing.json", results)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json is not JSON"):
        evaluate(tmp_path / "broken.json", results)


# ------------------------------------------------------------------ the metric in a Runner


def samples_of(truth: dict, results: list[dict], iou_type: str) -> list[dict]:
    """The results as mmdet's detectors hand them over: boxes xyxy, labels, masks."""
    label = {c["id"]: i for i, c in enumerate(truth["categories"])}
    samples = []
    for image in truth["images"]:
        rows = [row for row in results if row["image_id"] == image["id"]]
        boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float64).reshape(-1, 4)
        found = {
            "bboxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
            "scores": torch.tensor([row["score"] for row in rows], dtype=torch.float64),
            "labels": torch.tensor([label[row["category_id"]] for row in rows], dtype=torch.long),
        }
        if iou_type == "segm":
            masks = [coco_mask.decode(row["segmentation"]) for row in rows]
            found["masks"] = torch.from_numpy(np.stack(masks)).bool()
        shape = (image["height"], image["width"])
        samples.append({"pred_instances": found, "img_id": image["id"], "ori_shape": shape})
    return samples


def build(truth: dict, folder: Path, **options: object) -> object:
    (folder / "truth.json").write_text(json.dumps(truth))
    metric = METRICS.build(
        dict(type="sparc.DetectionMetric", ann_file=str(folder / "truth.json"), **options)
    )
    metric.dataset_meta = {"classes": tuple(c["name"] for c in truth["categories"])}
    return metric


@pytest.mark.parametrize("style", ["coco", "lvis"])
def test_the_metric_gives_what_evaluate_gives(style: str, tmp_path: Path) -> None:
    truth, results = make_set(5, style)
    prefix = tmp_path / "out" / "set"
    metric = build(
        truth, tmp_path, style=style, iou_types=("bbox", "segm"), outfile_prefix=str(prefix)
    )
    samples = samples_of(truth, results, "segm")
    metric.process({}, samples[:4])
    metric.process({}, samples[4:])
    found = metric.evaluate(len(samples))
    for iou_type in ("bbox", "segm"):
        expected = evaluate(truth, results, iou_type, style)
        ours = {name: found[f"{style}/{iou_type}_{name}"] for name in expected}
        assert ours == pytest.approx(expected, abs=1e-9)
        assert evaluate(truth, f"{prefix}.{iou_type}.json", iou_type, style) == pytest.approx(ours)
        # class by class: the mean over classes is the metric, and one class alone has its own AP
        classes = metric.per_class[f"{iou_type}_AP"]
        assert sum(classes.values()) / len(classes) == pytest.approx(expected["AP"], abs=1e-9)
        name = next(iter(classes))
        kept = {row["id"] for row in truth["categories"] if row["name"] == name}
        alone = dict(truth, categories=[r for r in truth["categories"] if r["id"] in kept])
        alone["annotations"] = [r for r in truth["annotations"] if r["category_id"] in kept]
        rows = [row for row in results if row["category_id"] in kept]
        if style == "coco":  # LVIS's limit per image counts all classes
            assert evaluate(alone, rows, iou_type, style)["AP"] == pytest.approx(classes[name])


def test_a_model_that_finds_nothing_scores_zero(tmp_path: Path) -> None:
    truth, _ = make_set(0)
    metric = build(truth, tmp_path)
    metric.process({}, samples_of(truth, [], "bbox"))
    assert metric.evaluate(len(truth["images"]))["coco/bbox_AP"] == 0


@pytest.mark.parametrize(
    "classes,message",
    [
        (None, "labels have no names"),
        (("kind 0", "kind 1", "kind 2", "dog"), r"has no category \['dog'\]"),
        (("kind 1", "kind 0", "kind 2", "kind 3"), "another order"),
    ],
)
def test_classes_that_are_not_those_of_the_annotation_file_are_an_error(
    classes: tuple | None, message: str, tmp_path: Path
) -> None:
    truth, results = make_set(0)
    metric = build(truth, tmp_path)
    metric.dataset_meta = {"classes": classes}
    metric.process({}, samples_of(truth, results, "bbox"))
    with pytest.raises(ValueError, match=message):
        metric.evaluate(len(truth["images"]))


def test_masks_are_encoded_as_pycocotools_does_wherever_they_lie() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(40, 23, 31, dtype=torch.bool)
    for index, mask in enumerate(masks[:30]):
        top, left = (int(torch.randint(0, n, (), generator=generator)) for n in (20, 28))
        part = mask[top : top + 1 + index, left : left + 1 + index]
        part[:] = torch.rand(part.shape, generator=generator) < 0.2 + 0.03 * index
    masks[30], masks[31, :, 0], masks[32, :, -1] = True, True, True
    masks[33, 0], masks[34, -1], masks[35, 0, 0], masks[36, -1, -1] = True, True, True, True
    for mask, found in zip(masks, encode(masks), strict=True):
        expected = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
        assert found == {"size": [23, 31], "counts": expected["counts"].decode()}
    assert encode(masks[:0]) == []


@pytest.mark.parametrize("style", ["coco", "lvis"])
def test_some_of_a_files_classes_are_judged_as_if_there_were_no_others(
    style: str, tmp_path: Path
) -> None:
    truth, results = make_set(5, style)
    kept = [c["id"] for c in truth["categories"][:2]]
    metric = build(truth, tmp_path, style=style)
    metric.dataset_meta = {"classes": tuple(c["name"] for c in truth["categories"][:2])}
    metric.check()
    own = [row for row in results if row["category_id"] in kept]
    metric.process({}, samples_of(truth, own, "bbox"))
    found = metric.evaluate(len(truth["images"]))
    annotations = [a for a in truth["annotations"] if a["category_id"] in kept]
    alone = {**truth, "categories": truth["categories"][:2], "annotations": annotations}
    expected = evaluate(alone, own, "bbox", style)
    assert 0 < expected["AP"] == pytest.approx(found[f"{style}/bbox_AP"])
    if style == "coco":  # and as pycocotools judges them, given the whole file
        agree({"AP": expected["AP"]}, by_pycocotools(truth, own, "bbox", kept))


def test_images_named_by_texts_are_judged_like_numbered_ones(tmp_path: Path) -> None:
    truth, results = make_set(5)
    expected = evaluate(truth, results)
    for row in truth["images"]:
        row["id"] = f"photo {row['id']}.jpg"
    for row in [*truth["annotations"], *results]:
        row["image_id"] = f"photo {row['image_id']}.jpg"
    assert evaluate(truth, results) == pytest.approx(expected)
    metric = build(truth, tmp_path)
    metric.process({}, samples_of(truth, results, "bbox"))
    assert metric.evaluate(len(truth["images"]))["coco/bbox_AP"] == pytest.approx(expected["AP"])


def test_annotations_of_unlisted_images_count_nowhere(tmp_path: Path) -> None:
    truth, results = make_set(5)
    expected = evaluate(truth, results)
    stray = {**truth["annotations"][0], "id": 10**6, "image_id": 10**6}
    truth["annotations"].append(stray)
    metric = build(truth, tmp_path)
    metric.check()
    metric.process({}, samples_of(truth, results, "bbox"))
    assert metric.evaluate(len(truth["images"]))["coco/bbox_AP"] == pytest.approx(expected["AP"])
    stray["image_id"] = str(truth["images"][0]["id"])
    with pytest.raises(
        ValueError, match=r"truth\.json: image_id of annotations\[25\] is '1', listed is 1"
    ):
        build(truth, tmp_path).check()


def test_a_metric_that_cannot_work_is_refused_at_the_door(tmp_path: Path) -> None:
    truth, results = make_set(0)
    with pytest.raises(ValueError, match="style is 'coco' or 'lvis'"):
        build(truth, tmp_path, style="voc")
    with pytest.raises(ValueError, match="iou_types"):
        build(truth, tmp_path, iou_types=("keypoints",))
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        METRICS.build(dict(type="sparc.DetectionMetric", ann_file=str(tmp_path / "none.json")))
    metric = build(truth, tmp_path, iou_types=("segm",))
    with pytest.raises(ValueError, match="predicts no masks"):
        metric.process({}, samples_of(truth, results, "bbox"))
