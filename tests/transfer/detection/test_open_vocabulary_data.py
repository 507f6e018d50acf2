"""What an open-vocabulary detector is trained on: classes left out, mosaics, chosen words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS, DefaultScope

from sparc_pretrain.registry import DATASETS
from transfer.detection.mmdet_bases import HorizontalBoxes
from transfer.detection.open_vocabulary.data import OpenVocabularyDataset, Vocabulary
from transfer.detection.open_vocabulary.files import held_out, image_file, read_truth
from transfer.detection.open_vocabulary.transforms import FederatedQueries, GridMosaic

NAMES = ("cat", "dog", "frying_pan", "unicorn")
FREQUENCIES = ("f", "c", "c", "r")


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def lvis(folder: Path, **changes: Any) -> Path:
    """Three images: a cat and a unicorn; a dog (others of it unmarked); a unicorn alone."""
    images = [
        {"id": 1, "neg_category_ids": [2, 4], "not_exhaustive_category_ids": []},
        {"id": 2, "neg_category_ids": [], "not_exhaustive_category_ids": [2]},
        {"id": 3, "neg_category_ids": [3], "not_exhaustive_category_ids": []},
    ]
    for image in images:
        name = f"http://images.cocodataset.org/train2017/{image['id']}.png"
        image.update(width=40, height=30, coco_url=name)
    boxes = [
        (1, 1, [2, 3, 10, 12]),
        (1, 4, [20, 5, 8, 8]),
        (2, 2, [0, 0, 9, 9]),
        (3, 4, [1, 1, 5, 5]),
    ]
    content = {
        "images": images,
        "categories": [
            {"id": i + 1, "name": n, "frequency": f}
            for i, (n, f) in enumerate(zip(NAMES, FREQUENCIES, strict=True))
        ],
        "annotations": [
            {"id": k + 1, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3]}
            for k, (i, c, b) in enumerate(boxes)
        ],
    }
    (folder / "train2017").mkdir(exist_ok=True)
    for image in images:
        pixels = np.full((30, 40, 3), 50 * image["id"], dtype=np.uint8)
        cv2.imwrite(str(folder / "train2017" / f"{image['id']}.png"), pixels)
    return write(folder / "lvis.json", {**content, **changes})


def open_set(ann_file: Path, **options: Any) -> OpenVocabularyDataset:
    config = dict(
        type="sparc.OpenVocabularyDataset",
        ann_file=str(ann_file),
        data_prefix=dict(img=str(ann_file.parent)),
        pipeline=[],
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        return DATASETS.build({**config, **options})


# ------------------------------------------------------------------ files and classes


def test_rare_classes_are_neither_shown_nor_asked_for(tmp_path: Path) -> None:
    data = open_set(lvis(tmp_path), leave_out_frequency=("r",))
    assert data.metainfo["classes"] == NAMES[:3] == data.vocabulary.names
    assert len(data) == 3 and len(data.cat_ids) == 3
    records = [data.get_data_info(i) for i in range(3)]
    assert [len(r["instances"]) for r in records] == [1, 1, 0]
    for record in records:
        (known,) = record["federated"]
        assert not any("unicorn" in known[k] for k in ("positive", "negative", "partial"))
    assert records[0]["federated"][0]["negative"] == ("dog",)  # unicorn was one, too


def test_an_image_of_rare_things_alone_can_be_left_out_as_well(tmp_path: Path) -> None:
    rules = dict(leave_out_frequency=("r",), filter_cfg=dict(filter_empty_gt=True))
    assert len(open_set(lvis(tmp_path), **rules)) == 2
    assert len(open_set(lvis(tmp_path), test_mode=True, **rules)) == 3


def test_names_of_another_file_are_left_out_whatever_their_spelling(tmp_path: Path) -> None:
    other = write(
        tmp_path / "other.json",
        {
            "images": [],
            "annotations": [],
            "categories": [
                {"id": 1, "name": "Frying-Pan_(kitchen)", "frequency": "r"},
                {"id": 2, "name": "dog", "frequency": "f"},
            ],
        },
    )
    data = open_set(lvis(tmp_path), leave_out_names=str(other))
    assert data.metainfo["classes"] == ("cat", "dog", "unicorn")
    listed = open_set(lvis(tmp_path), leave_out_names=["frying pan", "CAT"])
    assert listed.metainfo["classes"] == ("dog", "unicorn")


def test_what_is_not_marked_is_unknown_in_lvis_and_absent_in_coco(tmp_path: Path) -> None:
    data = open_set(lvis(tmp_path))
    known = [data.get_data_info(i)["federated"][0] for i in range(2)]
    assert known[0] == dict(
        region=None, positive=("cat", "unicorn"), negative=("dog", "unicorn"), partial=()
    )
    assert known[1] == dict(region=None, positive=("dog",), negative=(), partial=("dog",))
    truth = json.loads((tmp_path / "lvis.json").read_text())
    for image in truth["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    plain = open_set(write(tmp_path / "coco.json", truth))
    assert plain.get_data_info(1)["federated"][0]["negative"] == ("cat", "frying_pan", "unicorn")
    doubted = open_set(tmp_path / "coco.json", exhaustive=False)
    assert doubted.get_data_info(1)["federated"][0]["negative"] == ()


def test_evaluation_brings_all_class_names_and_the_images_path(tmp_path: Path) -> None:
    data = open_set(lvis(tmp_path), test_mode=True)
    record = data.get_data_info(0)
    assert record["text"] == NAMES
    assert Path(record["img_path"]) == tmp_path / "train2017" / "1.png"
    assert [i["bbox_label"] for i in record["instances"]] == [0, 3]
    assert record["instances"][0]["bbox"] == [2, 3, 12, 15]


def test_classes_chosen_by_the_config_keep_the_order_of_the_file(tmp_path: Path) -> None:
    data = open_set(lvis(tmp_path), metainfo=dict(classes=("dog", "cat")))
    assert data.metainfo["classes"] == ("cat", "dog")
    with pytest.raises(ValueError, match=r"no category \['zebra'\] \(1 of the 2"):
        open_set(lvis(tmp_path), metainfo=dict(classes=("dog", "zebra")))


def test_files_of_the_wrong_kind_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no 'categories': give COCO"):
        read_truth(write(tmp_path / "a.json", {"images": []}))
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        read_truth(tmp_path / "none.json")
    with pytest.raises(ValueError, match="is not JSON"):
        (tmp_path / "b.json").write_text("{")
        read_truth(tmp_path / "b.json")
    truth = {"categories": [{"id": 1, "name": "cat"}]}
    with pytest.raises(ValueError, match="have no 'frequency'"):
        held_out(truth, "coco.json", ("r",), ())


def test_visual_genome_is_read_with_its_sizes_and_merges_equal_names(tmp_path: Path) -> None:
    boxes = [("Man", 1, 2, 10, 12), ("tree", 3, 3, 4, 4), ("man ", 5, 5, 6, 6)]
    objects = [
        dict(object_id=k, x=x, y=y, w=w, h=h, names=[n]) for k, (n, x, y, w, h) in enumerate(boxes)
    ]
    objects.append(dict(object_id=9, x=0, y=0, w=3, h=3, names=[]))
    path = write(tmp_path / "objects.json", [dict(image_id=7, objects=objects)])
    with pytest.raises(FileNotFoundError, match="image_data"):
        read_truth(path)
    url = "https://cs.stanford.edu/people/rak248/VG_100K_2/7.jpg"
    write(tmp_path / "image_data.json", [dict(image_id=7, width=40, height=30, url=url)])
    data = open_set(path)
    assert data.metainfo["classes"] == ("man", "tree")
    record = data.get_data_info(0)
    assert [i["bbox_label"] for i in record["instances"]] == [0, 1, 0]
    assert record["img_path"].endswith("/VG_100K_2/7.jpg")
    assert record["federated"][0]["negative"] == ()


def test_images_are_found_in_the_layouts_of_lvis_and_objects365() -> None:
    url = "http://images.cocodataset.org/val2017/000000397133.jpg"
    assert image_file({"coco_url": url}) == "val2017/000000397133.jpg"
    name = "images/v1/patch8/objects365_v1_00420917.jpg"
    assert image_file({"file_name": name}) == "patch8/objects365_v1_00420917.jpg"
    assert image_file({"file_name": "a/b.jpg"}) == "a/b.jpg"


# ------------------------------------------------------------------ mosaics


def tile(height: int, width: int, box: list[int], label: int, vocabulary: Vocabulary) -> dict:
    """A black image whose box is white."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    name = vocabulary.names[label]
    return dict(
        img=image,
        gt_bboxes=HorizontalBoxes(np.array([box], dtype=np.float32)),
        gt_bboxes_labels=np.array([label]),
        gt_ignore_flags=np.array([False]),
        vocabulary=vocabulary,
        federated=[dict(region=None, positive=(name,), negative=("dog",), partial=())],
    )


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_boxes_of_a_mosaic_lie_on_their_objects_and_inside_their_region(grid: int) -> None:
    vocabulary = Vocabulary(NAMES, [1, 1, 1, 1])
    shapes = [(60, 96), (96, 60), (48, 48), (30, 120)]
    tiles = []
    for i in range(grid**2):
        height, width = shapes[i % 4]
        box = [width // 4, height // 3, width // 4 * 3, height // 3 * 2]
        tiles.append(tile(height, width, box, i % 2 * 2, vocabulary))
    out = GridMosaic(size=192, grids=(grid,), probs=(1.0,))({**tiles[0], "mix_results": tiles[1:]})
    assert out["img"].shape == (192, 192, 3) and out["img_shape"] == (192, 192)
    assert out["gt_bboxes_labels"].tolist() == [i % 2 * 2 for i in range(grid**2)]
    side = 192 // grid
    for i, box in enumerate(out["gt_bboxes"].tensor.tolist()):
        left, top, right, bottom = out["federated"][i]["region"]
        assert (left, top) == (i % grid * side, i // grid * side)
        height, width = shapes[i % 4]
        assert max(right - left, bottom - top) == side
        assert (right - left) / (bottom - top) == pytest.approx(width / height, rel=0.04)
        white = out["img"][top:bottom, left:right, 0] > 127
        rows, columns = np.where(white)
        seen = [
            columns.min() + left,
            rows.min() + top,
            columns.max() + 1 + left,
            rows.max() + 1 + top,
        ]
        assert box == pytest.approx(seen, abs=1.01)


def test_a_mosaic_of_two_data_sets_keeps_the_name_of_every_box() -> None:
    first = Vocabulary(("cat", "dog"), [3, 1])
    second = Vocabulary(("zebra", "dog"), [5, 2])
    tiles = [
        tile(20, 20, [0, 0, 9, 9], 0, first),
        *[tile(20, 20, [0, 0, 9, 9], k, second) for k in (0, 1, 0)],
    ]
    out = GridMosaic(40)({**tiles[0], "mix_results": tiles[1:]})
    names = [out["vocabulary"].names[k] for k in out["gt_bboxes_labels"]]
    assert names == ["cat", "zebra", "dog", "zebra"]
    assert dict(zip(out["vocabulary"].names, out["vocabulary"].counts, strict=True)) == {
        "cat": 3,
        "dog": 3,
        "zebra": 5,
    }
    assert first.names == ("cat", "dog") and first.counts.tolist() == [3, 1]


def test_mosaic_sizes_are_drawn_as_often_as_asked_for() -> None:
    np.random.seed(0)
    mosaic = GridMosaic(32)
    others = [len(mosaic.get_indexes(range(5))) for _ in range(4000)]
    shares = [others.count(n) / 4000 for n in (0, 3, 8)]
    assert shares == pytest.approx([0.4, 0.3, 0.3], abs=0.03)
    with pytest.raises(ValueError, match="probabilities"):
        GridMosaic(32, grids=(1, 2), probs=(0.4, 0.4))


# ------------------------------------------------------------------ words


def sample(federated: list[dict], labels: list[int], vocabulary: Vocabulary) -> dict:
    return dict(
        img=np.zeros((10, 20, 3), dtype=np.uint8),
        gt_bboxes_labels=np.array(labels, dtype=np.int64),
        vocabulary=vocabulary,
        federated=federated,
    )


def known(region: Any = None, positive=(), negative=(), partial=()) -> dict:
    return dict(region=region, positive=positive, negative=negative, partial=partial)


def test_unknown_classes_are_no_negatives_unless_drawn_as_such() -> None:
    names = tuple("abcdefgh")
    vocabulary = Vocabulary(names, np.ones(8))
    one = sample(
        [known(positive=("b", "c"), negative=("d",), partial=("c", "e"))], [2, 1], vocabulary
    )
    out = FederatedQueries(negatives=0)(copy.deepcopy(one))
    assert out["query_names"] == ("b", "c", "d")
    assert out["gt_bboxes_labels"].tolist() == [1, 0]
    assert out["known"].tolist() == [[True, False, True]]  # c: others of it may be unmarked
    assert out["regions"] == [(0, 0, 20, 10)]
    for seed in range(20):
        np.random.seed(seed)
        out = FederatedQueries(negatives=3)(copy.deepcopy(one))
        assert out["query_names"][:3] == ("b", "c", "d")
        pseudo = out["query_names"][3:]
        # two more, of those about which nothing is known: not e, which was seen
        assert len(set(pseudo)) == 2 and set(pseudo) <= set("afgh")
        assert out["known"][0, 3:].all()


def test_frequent_classes_are_drawn_more_often_and_absent_ones_never() -> None:
    np.random.seed(0)
    vocabulary = Vocabulary(("often", "seldom", "never", "shown"), [90, 10, 0, 50])
    drawn = [vocabulary.draw(1, {"shown"})[0] for _ in range(1000)]
    assert drawn.count("often") / 1000 == pytest.approx(0.9, abs=0.04)
    assert set(drawn) == {"often", "seldom"}
    assert sorted(vocabulary.draw(9, {"shown"})) == ["often", "seldom"]


def test_there_are_at_most_as_many_words_as_asked_for_beside_those_in_the_image() -> None:
    names = tuple(f"n{i}" for i in range(400))
    vocabulary = Vocabulary(names, np.ones(400))
    one = sample([known(positive=names[:30], negative=names[30:])], [3], vocabulary)
    out = FederatedQueries(negatives=50, max_queries=100)(copy.deepcopy(one))
    assert len(out["query_names"]) == len(set(out["query_names"])) == 100
    assert out["query_names"][:30] == names[:30] and out["known"].all()
    out = FederatedQueries(max_queries=10)(copy.deepcopy(one))
    assert out["query_names"] == names[:30]


def test_in_a_mosaic_a_class_is_known_only_where_it_was_looked_for() -> None:
    vocabulary = Vocabulary(("a", "b", "c"), [1, 1, 1])
    tiles = [
        known((0, 0, 10, 10), positive=("a",), negative=("b",)),
        known((10, 0, 20, 10), positive=("b",)),
    ]
    out = FederatedQueries(negatives=0)(sample(tiles, [0, 1], vocabulary))
    assert out["query_names"] == ("a", "b")
    assert out["known"].tolist() == [[True, True], [False, True]]


def test_an_image_about_which_nothing_is_known_still_has_a_word() -> None:
    vocabulary = Vocabulary(("a", "b"), [0, 0])
    out = FederatedQueries()(sample([known()], [], vocabulary))
    assert out["query_names"] == ("a",) and not out["known"].any()


def test_the_whole_pipeline_packs_what_the_loss_reads(tmp_path: Path) -> None:
    inner = dict(
        type="sparc.OpenVocabularyDataset",
        ann_file=str(lvis(tmp_path)),
        data_prefix=dict(img=str(tmp_path)),
        leave_out_frequency=("r",),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="RandomFlip", prob=0.5),
        ],
    )
    keys = ("img_shape", "query_names", "regions", "known")
    config = dict(
        type="MultiImageMixDataset",
        dataset=inner,
        pipeline=[
            dict(type="GridMosaic", size=48, grids=(2,), probs=(1.0,)),
            dict(type="FederatedQueries"),
            dict(type="PackDetInputs", meta_keys=keys),
        ],
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        data = DATASETS.build(config)
        TRANSFORMS.build(dict(type="FederatedQueries"))
    np.random.seed(1)
    for i in range(3):
        packed = data[i]
        item = packed["data_samples"]
        assert packed["inputs"].shape == (3, 48, 48)
        assert item.known.shape == (4, len(item.query_names)) and len(item.regions) == 4
        assert set(item.query_names) <= set(NAMES[:3])
        truth = item.gt_instances
        assert len(truth.bboxes) == len(truth.labels)
        assert (truth.labels < len(item.query_names)).all()
        assert isinstance(truth.labels, torch.Tensor)


@pytest.mark.parametrize(
    ("row", "key", "value", "words"),
    [
        ("images", "width", None, "image 1 has the width None"),
        ("images", "height", 0, "image 1 has the height 0"),
        ("annotations", "image_id", 99, r"annotations\[0\] is of image 99.*\(1 such\)"),
        ("annotations", "bbox", None, r"annotations\[0\] has the box None"),
        ("annotations", "bbox", [1, 2, float("nan"), 4], r"annotations\[0\] has the box .*nan"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused_by_name(
    row: str, key: str, value: Any, words: str, tmp_path: Path
) -> None:
    content = json.loads(lvis(tmp_path).read_text())
    content[row][0][key] = value
    with pytest.raises(ValueError, match=words) as error:
        open_set(write(tmp_path / "mine.json", content))
    assert "mine.json" in str(error.value)


@pytest.mark.parametrize(
    ("width", "x", "words"),
    [(None, 1, "image_data.json: image 7 has the width None"), (40, None, "object 3 of image 7")],
)
def test_what_visual_genome_lacks_is_named(
    width: int | None, x: int | None, words: str, tmp_path: Path
) -> None:
    thing = dict(object_id=3, names=["cat"], x=x, y=2, w=3, h=4)
    path = write(tmp_path / "objects.json", [dict(image_id=7, objects=[thing])])
    known = dict(image_id=7, width=width, height=30, url="https://x/VG_100K/7.jpg")
    write(tmp_path / "image_data.json", [known])
    with pytest.raises(ValueError, match=words):
        read_truth(path)
