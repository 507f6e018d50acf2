"""Windows, maps and IoU against slow loops; conventions; a model that knows all pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sparc_pretrain.data.sets.label_maps import CONVENTIONS, IGNORE, read_map, read_maps
from sparc_pretrain.objectives.clip import Clip
from sparc_pretrain.objectives.filip import Filip
from sparc_pretrain.zeroshot import dense, segmentation
from sparc_pretrain.zeroshot.dense import View, enlarge, labels_at, windows
from sparc_pretrain.zeroshot.patch_reader import PatchReader
from sparc_pretrain.zeroshot.segmentation import (
    class_iou,
    confusion,
    dataset_metrics,
    evaluate,
    image_iou,
)
from tests.zeroshot.oracle_model import NAMES, oracle, paint, turned


def scene(seed: int, height: int, width: int) -> np.ndarray:
    """Random patch labels [height,width] of whole blocks."""
    return np.random.default_rng(seed).integers(0, len(NAMES), (height, width))


# -- pure functions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "side", "stride"), [(64, 64, 64, 32), (64, 100, 64, 32), (150, 90, 64, 48)]
)
def test_windows_cover_the_image_and_stay_inside(height, width, side, stride):
    seen = np.zeros((height, width), int)
    for top, left, h, w in windows(height, width, side, stride):
        assert (h, w) == (side, side) and top + h <= height and left + w <= width
        seen[top : top + h, left : left + w] += 1
    assert seen.min() >= 1


def test_windows_with_gaps_are_refused():
    image = torch.zeros(3, 64, 200, dtype=torch.uint8)
    texts, owner = dense.class_texts(oracle(64), [[name] for name in NAMES], ["{}"])
    with pytest.raises(ValueError, match="stride 100 leaves gaps between windows of 64"):
        dense.score_map(oracle(64), image, texts, owner, len(NAMES), View(stride=100))


def test_the_last_window_is_moved_back_and_a_small_image_is_one_window():
    assert [w[1] for w in windows(64, 100, 64, 32)] == [0, 32, 36]
    assert list(windows(40, 50, 64, 32)) == [(0, 0, 40, 50)]


def by_loops(prediction, truth, classes):
    matrix = [[0] * classes for _ in range(classes)]
    for p, t in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
        if t != IGNORE:
            matrix[t][p] += 1
    iou = []
    for k in range(classes):
        union = sum(matrix[k]) + sum(row[k] for row in matrix) - matrix[k][k]
        iou.append(matrix[k][k] / union if union else math.nan)
    return matrix, iou


def test_confusion_and_both_mious_equal_slow_loops():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (30, 40), generator=generator)
    truth[:5] = IGNORE
    prediction = torch.randint(0, 5, (30, 40), generator=generator)  # class 4 is never true
    wanted, iou = by_loops(prediction, truth, 6)  # class 5 neither
    matrix = confusion(prediction, truth, 6)
    assert matrix.tolist() == wanted and math.isnan(iou[5])
    assert class_iou(matrix)[:5].tolist() == pytest.approx(iou[:5])
    found = dataset_metrics(matrix, background=True)
    assert found["mmseg_mIoU"] == pytest.approx(sum(iou[:5]) / 5)
    assert found["mmseg_foreground_mIoU"] == pytest.approx(sum(iou[1:5]) / 4)
    right = [wanted[k][k] for k in range(4)]
    assert found["mmseg_aAcc"] == pytest.approx(sum(right) / (25 * 40))
    assert found["mmseg_mAcc"] == pytest.approx(
        sum(r / sum(row) for r, row in zip(right, wanted, strict=False)) / 4
    )
    assert image_iou(matrix, background=False) == pytest.approx(sum(iou[:4]) / 4)
    assert image_iou(matrix, background=True) == pytest.approx(sum(iou[1:4]) / 3)


def test_chance_is_what_drawing_classes_comes_to():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (200_000,), generator=generator) // 2  # two of one, one of other
    drawn = torch.randint(0, 4, truth.shape, generator=generator)
    expected = segmentation.random_matrix(confusion(truth, truth, 4))
    counted = confusion(drawn, truth, 4)
    assert class_iou(expected).tolist() == pytest.approx(class_iou(counted).tolist(), abs=0.01)


def test_an_image_without_foreground_has_no_number():
    background = confusion(torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.long), 3)
    assert math.isnan(image_iou(background, background=True))


@pytest.mark.parametrize("upsample", ["labels", "scores"])
def test_labels_are_the_arg_max_of_enlarged_scores_and_of_equals_the_first(upsample):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 5, 7, generator=generator)
    scores[33] = scores[:33].amax(dim=0)  # as high as the best before it, everywhere
    label, best = labels_at(scores, 31, 50, upsample)
    whole = enlarge(scores, 31, 50, upsample)
    assert torch.equal(best, whole.amax(dim=0))
    assert torch.equal(label, (whole == best).int().argmax(dim=0))
    if upsample == "labels":
        assert not (label == 33).any()


def test_labels_are_enlarged_about_the_centres_of_patches():
    scores = torch.eye(3).view(3, 1, 3)
    label, _ = labels_at(scores, 2, 9, "labels")
    assert label[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_class_takes_the_best_of_its_names():
    score = torch.tensor([[1.0, 5], [4, 2], [3, 3]])
    owner = torch.tensor([0, 0, 1])
    assert dense.best_of_class(score, owner, 2).tolist() == [[4, 5], [3, 3]]


@pytest.mark.parametrize("options", [{"mode": "tile"}, {"upsample": "both"}, {"size": -1}])
def test_views_that_are_unknown_are_refused(options):
    with pytest.raises(ValueError):
        View(**options)


# -- label maps -----------------------------------------------------------------------------------


def test_reduce_zero_label_ignores_zero_and_moves_the_others(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 1], [3, 255]], np.uint8)).save(file)
    assert read_map(file, CONVENTIONS["ade20k"], 150).tolist() == [[255, 0], [2, 255]]
    assert read_map(file, CONVENTIONS["plain"], 4).tolist() == [[0, 1], [3, 255]]
    with pytest.raises(ValueError, match="label 3"):
        read_map(file, CONVENTIONS["plain"], 3)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(file)
    with pytest.raises(ValueError, match="not a map of class numbers"):
        read_map(file, CONVENTIONS["plain"], 3)


def test_a_map_with_missing_rows_or_a_wrong_bit_is_refused(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (40, 50), np.uint8)).save(file)
    sound = file.read_bytes()
    assert read_map(file, CONVENTIONS["plain"], 9).shape == (40, 50)
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 1
    for damaged in (sound[: len(sound) // 2], bytes(flipped)):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.png: png"):
            read_map(file, CONVENTIONS["plain"], 9)


def test_folders_that_do_not_fit_are_refused(tmp_path):
    images, maps = tmp_path / "images", tmp_path / "annotations"
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_maps(images, maps, NAMES)
    images.mkdir()
    maps.mkdir()
    with pytest.raises(FileNotFoundError, match="no label maps"):
        read_maps(images, maps, NAMES)
    Image.new("L", (8, 8)).save(maps / "a.png")
    with pytest.raises(FileNotFoundError, match=r"no image a\.\*"):
        read_maps(images, maps, NAMES)
    with pytest.raises(ValueError, match="ade20k has 150 classes, not 6"):
        read_maps(images, maps, NAMES, "ade20k")
    with pytest.raises(ValueError, match="use one of"):
        read_maps(images, maps, NAMES, "voc")


def test_the_maps_of_a_split_and_of_coco_stuff_are_found(tmp_path):
    images, maps = tmp_path / "images", tmp_path / "annotations"
    for name in ("a", "b", "c"):
        paint(images / f"{name}.png", scene(0, 4, 4))
        maps.mkdir(exist_ok=True)
        Image.new("L", (32, 32)).save(maps / f"{name}.png")
    Image.new("L", (32, 32)).save(maps / "b_labelTrainIds.png")
    split = tmp_path / "val.txt"
    split.write_text("c\na\n")
    (maps / "b_labelTrainIds.png").rename(tmp_path / "b_labelTrainIds.png")
    data = read_maps(images, maps, NAMES, split=split)
    assert [file.name for file in data.files] == ["c.png", "a.png"]
    assert [file.name for file in data.maps] == ["c.png", "a.png"]
    split.write_text("z\n")
    with pytest.raises(FileNotFoundError, match="no label map of z"):
        read_maps(images, maps, NAMES, split=split)
    with pytest.raises(FileNotFoundError, match="no list"):
        read_maps(images, maps, NAMES, split=tmp_path / "none.txt")
    (tmp_path / "b_labelTrainIds.png").rename(maps / "b_labelTrainIds.png")
    names = [f"class {k}" for k in range(171)]
    data = read_maps(images, maps, names, "coco-stuff")
    assert [file.name for file in data.files] == ["b.png"]
    assert [file.name for file in data.maps] == ["b_labelTrainIds.png"]


def test_maps_and_photographs_in_one_folder_are_told_apart(tmp_path):
    for name in ("a", "b"):
        paint(tmp_path / f"{name}.jpg", scene(0, 4, 4))
        for suffix in ("txt", "json", "xml"):
            (tmp_path / f"{name}.{suffix}").write_text("{}")
        Image.new("L", (32, 32)).save(tmp_path / f"{name}.png")
    (tmp_path / "._a.png").write_bytes(b"left by a Mac")
    data = read_maps(tmp_path, tmp_path, NAMES)
    assert [file.name for file in data.files] == ["a.jpg", "b.jpg"]
    assert [file.name for file in data.maps] == ["a.png", "b.png"]
    paint(tmp_path / "b.jpeg", scene(0, 4, 4))
    with pytest.raises(ValueError, match=r"b\.png may be the map of b\.jpeg and b\.jpg"):
        read_maps(tmp_path, tmp_path, NAMES)
    (tmp_path / "b.jpeg").unlink()
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.png has no image b\.\*"):
        read_maps(tmp_path, tmp_path, NAMES)


@pytest.mark.parametrize("turned", [False, True])
def test_a_map_that_is_not_of_its_image_s_size_is_refused_after_exif(tmp_path, turned):
    images, maps = write(tmp_path, [(8, 6)])
    exif = Image.Exif()
    exif[0x112] = 6 if turned else 1
    with Image.open(images / "0.png") as picture:
        picture.save(images / "0.jpg", exif=exif, quality=95)
    (images / "0.png").unlink()
    with Image.open(maps / "0.png") as picture:
        upright = picture.rotate(-90, expand=True) if turned else picture.copy()
        half = upright.resize((upright.width // 2, upright.height // 2), Image.NEAREST)
        sideways = upright.transpose(Image.Transpose.TRANSPOSE)
    upright.save(maps / "0.png")
    evaluate(oracle(64), read_maps(images, maps, NAMES))
    for wrong in (half, sideways):
        wrong.save(maps / "0.png")
        with pytest.raises(
            ValueError, match=r"0\.jpg has \d+ x \d+ pixels upright, its map .*0\.png"
        ):
            evaluate(oracle(64), read_maps(images, maps, NAMES))


def test_a_background_that_the_list_leaves_out_is_its_first_class(tmp_path):
    paint(tmp_path / "images" / "a.png", scene(0, 4, 4))
    (tmp_path / "annotations").mkdir()
    Image.new("L", (32, 32)).save(tmp_path / "annotations" / "a.png")
    names = [f"class {k}" for k in range(20)]
    data = read_maps(tmp_path / "images", tmp_path / "annotations", names, "voc21")
    assert data.classes == ["background", *names]


# -- a model that knows all -----------------------------------------------------------------------


def write(folder, sizes, change=lambda labels: labels + 1):
    """Pictures of random blocks and their maps, in ADE20K's layout; `change` writes the labels."""
    for number, (height, width) in enumerate(sizes):
        pixels = paint(folder / "images" / f"{number}.png", scene(number, height, width))
        (folder / "annotations").mkdir(exist_ok=True)
        maps = Image.fromarray(change(pixels).astype(np.uint8))
        maps.save(folder / "annotations" / f"{number}.png")
    return folder / "images", folder / "annotations"


def scores_of(found) -> dict[str, float]:
    """The model's numbers, without those of chance."""
    return {k: v for k, v in found.metrics.items() if not k.startswith("chance_")}


@pytest.mark.parametrize("mode", ["slide", "whole", "squash"])
@pytest.mark.parametrize("upsample", ["labels", "scores"])
@pytest.mark.parametrize("head", ["global", "local"])
def test_a_model_that_knows_the_objects_segments_without_a_mistake(tmp_path, mode, upsample, head):
    folders = write(tmp_path, [(8, 8), (8, 8)])
    data = read_maps(*folders, NAMES)
    found = evaluate(oracle(64), data, view=View(mode, upsample=upsample), reader=PatchReader(head))
    if upsample == "labels":
        assert scores_of(found) == dict.fromkeys(scores_of(found), 1.0)
        assert 0 < found.metrics["chance_paper_mIoU"] < 0.2
    else:  # borders between patches are drawn between their centres
        assert 0.8 < found.metrics["mmseg_mIoU"] <= 1
    assert found.items["paper_mIoU"] and found.owners == [0, 1]
    assert found.protocol["view"] == mode and found.protocol["reduce_zero_label"] is True


def test_large_and_oblong_images_are_segmented_by_windows(tmp_path):
    data = read_maps(*write(tmp_path, [(12, 20), (25, 8)]), NAMES)
    # the shorter side is 64 = 8 patches, so shown at their own size only with --size
    for size, files in ((96, slice(0, 1)), (64, slice(1, 2))):
        part = replace(data, files=data.files[files], maps=data.maps[files])
        view = View("slide", size=size, stride=24)
        found = evaluate(oracle(64), part, view=view)
        assert found.metrics["mmseg_mIoU"] == found.metrics["paper_mIoU"] == 1.0
        assert (found.protocol["window"], found.protocol["stride"]) == (64, 24)


def test_windows_give_the_scores_of_the_whole_image_where_context_does_not_matter():
    model = oracle(64)
    image = torch.from_numpy(np.kron(scene(3, 12, 20), np.ones((8, 8), int)))
    pixels = (image[None].expand(3, -1, -1) * 30).byte()
    texts, owner = dense.class_texts(model, [[name] for name in NAMES], ["{}"])
    slid = dense.score_map(model, pixels, texts, owner, 6, View("slide", 96, stride=32))
    whole = dense.score_map(model, pixels, texts, owner, 6, View("whole", 96))
    assert slid.shape == (6, 96, 160) and whole.shape == (6, 12, 20)
    assert torch.allclose(slid, enlarge(whole, 96, 160, "labels"), atol=1e-6)


def test_patches_go_through_the_global_head():
    model = oracle(64)
    torch.nn.init.zeros_(model.adapters.h_v[0].weight)  # h_v forgets, g_v alone does not
    texts, owner = dense.class_texts(model, [[name] for name in NAMES], ["{}"])
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    assert (dense.score_map(model, image, texts, owner, 6, View()) == 0).all()
    local = PatchReader("local")
    assert dense.score_map(model, image, texts, owner, 6, View(), local).max() > 0.9


@pytest.mark.parametrize("view", [View("squash"), View("slide", size=96, stride=24)])
def test_pacl_is_read_through_its_embedder(tmp_path, view):
    side = (view.size or 64) // 8
    data = read_maps(*write(tmp_path, [(side, side)]), NAMES)
    model, objective = turned()
    found = evaluate(model, data, view=view, reader=PatchReader.of(objective))
    assert found.metrics["mmseg_mIoU"] == found.metrics["paper_mIoU"] == 1.0
    assert found.protocol["head"] == "Pacl.dense_patches(g_v(patch))"
    assert evaluate(model, data, view=view, reader=PatchReader("local")).metrics["mmseg_aAcc"] == 0


def test_an_objective_without_a_hook_is_read_as_before(tmp_path):
    """Patches of CLIP and FILIP are those of `encode_patches`, to the bit."""
    torch.manual_seed(0)
    model, image = oracle(64), torch.randint(0, 256, (1, 3, 64, 64)).byte()
    torch.nn.init.normal_(model.adapters.h_v[0].weight)
    for objective, head in ((Clip(), "global"), (Filip(), "local"), (None, "global")):
        reader = PatchReader.of(objective)
        with torch.no_grad():
            assert torch.equal(reader.patches(model, image), model.encode_patches(image, head))
        assert reader.formula() == {"global": "g_v(h_v(patch))", "local": "g_v(patch)"}[head]
    assert PatchReader.of(turned()[1], "global").embed is None
    with pytest.raises(ValueError, match="head 'both'"):
        PatchReader.of(Clip(), "both")


def test_the_three_ways_with_a_background(tmp_path):
    """Grass (label 0) is the background: it does not count, is a class, or lies below a bar."""
    folders = write(tmp_path, [(8, 8)], change=lambda labels: labels)
    names = [*NAMES[1:], *(f"unknown{k}" for k in range(15))]
    data = read_maps(*folders, names, "voc21")
    ignored = evaluate(oracle(64), data, background="none")
    assert ignored.metrics["paper_mIoU"] == ignored.metrics["mmseg_mIoU"] == 1.0
    assert ignored.protocol["candidates"] == 20
    named = replace(data, classes=["grass", *data.classes[1:]])
    as_class = evaluate(oracle(64), named, background="class")
    assert scores_of(as_class) == dict.fromkeys(scores_of(as_class), 1.0)
    assert as_class.protocol["candidates"] == 21
    below = evaluate(oracle(64), data, background="threshold", threshold=0.5)
    assert scores_of(below) == dict.fromkeys(scores_of(below), 1.0)
    high = evaluate(oracle(64), data, background="threshold", threshold=2)
    assert high.metrics["paper_mIoU"] == 0 and high.metrics["mmseg_mIoU"] > 0
    with pytest.raises(ValueError, match="has no background"):
        evaluate(oracle(64), read_maps(*folders, NAMES, "plain"), background="class")
    with pytest.raises(ValueError, match="use one of"):
        evaluate(oracle(64), data, background="some")


def test_an_unknown_word_for_the_background_costs_what_it_hides(tmp_path):
    folders = write(tmp_path, [(8, 8)], change=lambda labels: labels)
    data = read_maps(*folders, [*NAMES[1:], *(f"unknown{k}" for k in range(15))], "voc21")
    found = evaluate(oracle(64), data, background="class")  # "background" is no word it knows
    rows = found.extra["classes"]
    # nothing resembles grass, so all texts score 0 there, and of equals the first is taken
    assert rows[0]["class"] == "background" and found.metrics["paper_mIoU"] == 1.0
    assert rows[20]["IoU"] is None


def test_synonyms_stand_for_one_class(tmp_path):
    data = read_maps(*write(tmp_path, [(8, 8)]), ["lawn; grass", *NAMES[1:]])
    found = evaluate(oracle(64), data)
    assert found.metrics["mmseg_mIoU"] == 1.0
    assert found.protocol["candidates"] == 6


def test_a_wrong_name_is_a_wrong_class_in_both_numbers(tmp_path):
    names = [NAMES[1], NAMES[0], *NAMES[2:]]
    data = read_maps(*write(tmp_path, [(8, 8)]), names)
    found = evaluate(oracle(64), data).metrics
    assert found["paper_mIoU"] == found["mmseg_mIoU"] == pytest.approx(4 / 6)


def test_maps_without_any_class_are_refused(tmp_path):
    data = read_maps(*write(tmp_path, [(8, 8)], change=lambda labels: labels * 0), NAMES)
    with pytest.raises(ValueError, match="--convention"):
        segmentation.evaluate(oracle(64), data)


def test_things_and_stuff_of_an_image_are_told_apart_by_hand():
    """Classes 0 and 1 are things, 2 stuff; 8 pixels of thing 0 of which 6 right, 12 of stuff."""
    matrix = torch.tensor([[6, 0, 2], [0, 0, 0], [3, 1, 8]])
    found = segmentation.things_and_stuff(matrix, 2)
    assert found["things_mIoU"] == pytest.approx(6 / (8 + 3))  # thing 1 is not shown
    assert found["stuff_mIoU"] == pytest.approx(8 / (12 + 2))
    assert found[segmentation.WHOLE] == pytest.approx(8 / 20)
    empty = segmentation.things_and_stuff(torch.tensor([[0, 0], [2, 5]]), 1)
    assert empty["things_mIoU"] != empty["things_mIoU"] and empty["stuff_mIoU"] == 5 / 7
