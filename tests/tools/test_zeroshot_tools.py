"""Every task of tools/zeroshot.py, and tools/align.py, end to end on tiny run folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sparc_pretrain import run_folder
from sparc_pretrain.data.captions import read_captions
from sparc_pretrain.data.scenes import CATEGORIES, write_scenes
from sparc_pretrain.data.sets.conventions import CONVENTIONS
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.pretraining.pretrainer import Pretrainer
from tests.commands import call, refusal, tool
from tests.models import TEXT, VISION

TASKS = ("retrieval", "faithfulness", "classification", "segmentation", "grounding", "regions")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Six scenes, and a folder per class with crops of them."""
    folder = tmp_path_factory.mktemp("tools") / "scenes"
    write_scenes(folder, 6, 6, 48)
    for split in ("images/val", "annotations", "ade/annotations/validation"):
        assert (folder / split).is_dir()
    photos = sorted((folder / "images" / "val").iterdir())
    for number, photo in enumerate(photos):
        target = folder.parent / "classes" / CATEGORIES[number % 3]
        target.mkdir(parents=True, exist_ok=True)
        (target / photo.name).write_bytes(photo.read_bytes())
    return folder


@pytest.fixture(scope="module")
def runs(scenes: Path) -> dict[str, Path]:
    """Run folders of untrained models: one read by cosine, one token by token."""
    captions = read_captions(scenes / "annotations" / "captions_train.json")
    texts = [text for of_image in captions.values() for text in of_image]
    tokenizer = Tokenizer.train(texts, 300)
    found = {}
    for kind in ("Sparc", "Filip"):
        torch.manual_seed(0)
        text = {**TEXT, "vocab_size": tokenizer.vocab_size, "max_tokens": 40}
        model = Pretrainer(vision=VISION, text=text, objective=dict(type=kind), width=16)
        path = scenes.parent / kind / "run"
        run_folder.write(path, model.run_config(0), model.run_weights(), tokenizer.to_json())
        found[kind] = path
    return found


def arguments(scenes: Path, task: str) -> list[str | Path]:
    val, notes = scenes / "images" / "val", scenes / "annotations"
    ade = scenes / "ade"
    return {
        "retrieval": ["--images", val, "--captions", notes / "captions_val.json"],
        "faithfulness": ["--images", val, "--captions", notes / "captions_val.json"],
        "classification": ["--images", scenes.parent / "classes", "--suffix", "nice"],
        "segmentation": [
            *("--images", ade / "images" / "validation"),
            *("--annotations", ade / "annotations" / "validation"),
            *("--classes", ade / "classes.json", "--size", "48", "--upsample", "scores"),
        ],
        "grounding": ["--images", val, "--phrases", notes / "phrases_val.json", "--limit", "3"],
        "regions": [
            *("--images", scenes / "images", "--annotations", notes / "lvis_v1_val.json"),
            *("--limit", "3", "--size", "48"),
        ],
    }[task]


@pytest.mark.parametrize(
    ("task", "kind"),
    [*((task, "Sparc") for task in TASKS), *((task, "Filip") for task in TASKS[:3])],
)
def test_every_task_writes_its_numbers_with_their_protocol(runs, scenes, tmp_path, task, kind):
    out = tmp_path / "metrics.json"
    code, said = call("zeroshot", runs[kind], task, *arguments(scenes, task), "--out", out)
    assert code == 0, said
    record = json.loads(out.read_text())
    assert record["task"] == ("zeroshot_segmentation" if task == "segmentation" else task)
    assert record["backbone"]["sha256"] == run_folder.open_run(runs[kind]).sha256
    assert record["backbone"]["objective"] == kind
    assert record["protocol"]["img_size" if task != "segmentation" else "size"] in (32, 48)
    assert record["data"] and record["seconds"] is not None
    values = {k: v for k, v in record["metrics"].items() if "median" not in k}
    assert all(v is None or -1 <= v <= 1 for v in values.values())
    wanted = {
        "retrieval": {"i2t_R@1", "pooled_t2i_R@10"},
        "faithfulness": {"K_P", "pooled_K_Pna", "chance_K_P"},
        "classification": {"top1", "top5", "mean_per_class", "pooled_top1"},
        "segmentation": {"paper_mIoU", "mmseg_mIoU", "chance_paper_mIoU"},
        "grounding": {"local_pointing", "global_box_recall", "chance_centre_pointing"},
        "regions": {"top1", "mean_per_class", "AP", "APr", "APc", "APf", "chance_AP"},
    }[task]
    assert wanted <= record["metrics"].keys()
    if task in ("retrieval", "classification"):
        name = "i2t_median_rank" if task == "retrieval" else "top5"
        same = record["metrics"][name] == record["metrics"][f"pooled_{name}"]
        assert same or kind == "Filip"  # SPARC is read by cosine itself
        assert record["protocol"]["read_by"].startswith(f"{kind}.scores")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["annotations"][0].pop("area"), "has no 'area'"),
        (lambda d: d["annotations"][0].update(bbox=[0, 0, float("nan"), 1]), "has the box"),
        (lambda d: d["images"][0].pop("neg_category_ids"), "lacks 'neg_category_ids' in 'images'"),
        (
            lambda d: d["annotations"][0].update(image_id=str(d["annotations"][0]["image_id"])),
            "write ids as numbers everywhere",
        ),
    ],
)
def test_boxes_that_cannot_be_evaluated_are_told_before_the_model_runs(
    runs, scenes, tmp_path, change, words, monkeypatch
):
    monkeypatch.setattr(
        "sparc_pretrain.zeroshot.encode.load", lambda _: pytest.fail("the model is built")
    )
    data = json.loads((scenes / "annotations" / "lvis_v1_val.json").read_text())
    change(data)
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    given = ["--images", scenes / "images", "--annotations", tmp_path / "boxes.json"]
    line = refusal(call("zeroshot", runs["Sparc"], "regions", *given))
    assert words in line and "boxes.json" in line and "style=" not in line


def test_a_record_of_any_name_is_not_overwritten_by_what_lies_beside_it(runs, scenes, tmp_path):
    words = ["zeroshot", runs["Sparc"], "retrieval", *arguments(scenes, "retrieval")]
    assert call(*words, "--out", tmp_path / "retrieval.json")[0] == 0
    assert json.loads((tmp_path / "retrieval.json").read_text())["task"] == "retrieval"
    assert (tmp_path / "retrieval_examples.json").is_file()


def test_boxes_of_images_that_are_not_listed_are_counted(runs, scenes, tmp_path):
    data = json.loads((scenes / "annotations" / "lvis_v1_val.json").read_text())
    data["annotations"][0]["image_id"] = 10**6
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    given = ["--images", scenes / "images", "--annotations", tmp_path / "boxes.json"]
    out = ["--out", tmp_path / "m.json", "--size", "48"]
    assert call("zeroshot", runs["Sparc"], "regions", *given, *out)[0] == 0
    protocol = json.loads((tmp_path / "m.json").read_text())["protocol"]
    assert protocol["boxes_of_unlisted_images"] == 1


def test_a_prompt_ensemble_of_embeddings_is_refused_for_tokens(runs, scenes, tmp_path):
    words = [*arguments(scenes, "classification"), "--ensemble", "embedding"]
    line = refusal(call("zeroshot", runs["Filip"], "classification", *words))
    assert "Filip compares tokens" in line and "--ensemble score" in line
    out = ["--out", tmp_path / "metrics.json"]
    assert call("zeroshot", runs["Sparc"], "classification", *words, *out) == (0, "")


def test_towers_without_an_objective_are_read_by_cosine(runs, scenes, tmp_path):
    run = run_folder.open_run(runs["Sparc"])
    weights = {k: v for k, v in run.weights().items() if not k.startswith("objective.")}
    tokenizer = (run.path / run_folder.TOKENIZER).read_text()
    path = tmp_path / "converted" / "run"
    run_folder.write(path, {**run.config, "objective": {}}, weights, tokenizer)
    out = tmp_path / "metrics.json"
    words = [*arguments(scenes, "retrieval"), "--out", out]
    assert call("zeroshot", path, "retrieval", *words) == (0, "")
    record = json.loads(out.read_text())
    assert record["protocol"]["read_by"].startswith("PooledCosine.scores")
    assert record["metrics"]["i2t_R@5"] == record["metrics"]["pooled_i2t_R@5"]


def test_without_out_every_task_has_a_folder_of_its_own(runs, scenes):
    assert call("zeroshot", runs["Sparc"], "grounding", *arguments(scenes, "grounding"))[0] == 0
    folder = runs["Sparc"].parent / "zeroshot" / "grounding"
    assert {p.name for p in folder.iterdir()} == {"metrics.json", "words.json", "types.json"}


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("retrieval", ("--captions", "gone.json"), "gone.json"),
        ("retrieval", ("--protocol", "karpathy-1k"), "is no Karpathy file"),
        ("classification", ("--templates", "gone.txt"), "no templates gone.txt"),
        ("segmentation", ("--classes", "gone.txt"), "no class names gone.txt"),
        ("segmentation", ("--background", "class"), "has no background"),
        ("grounding", ("--phrases", "gone.json"), "no phrase file gone.json"),
        ("grounding", ("--size", "50"), "no multiple of the patch"),
        ("regions", ("--annotations", "gone.json"), "no annotation file gone.json"),
        ("regions", ("--images", "gone"), "is missing"),
    ],
)
def test_mistakes_end_in_one_line(runs, scenes, task, change, words):
    line = refusal(call("zeroshot", runs["Sparc"], task, *arguments(scenes, task), *change))
    assert words in line, line


def test_a_convention_that_is_no_data_set_needs_class_names(runs, scenes):
    words = arguments(scenes, "segmentation")
    at = words.index("--classes")
    line = refusal(call("zeroshot", runs["Sparc"], "segmentation", *words[:at]))
    assert "--classes FILE" in line


def test_the_data_sets_of_mmseg_have_the_classes_of_their_conventions():
    zeroshot = tool("zeroshot")
    for name in zeroshot.MMSEG:
        assert len(zeroshot.published(name)) == CONVENTIONS[name].classes
    assert zeroshot.published("voc21")[:2] == ["background", "aeroplane"]
    assert zeroshot.published("voc20")[0] == zeroshot.published("context59")[0] == "aeroplane"


def test_words_are_aligned_on_any_photo(runs, tmp_path, capsys):
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (500, 180), (200, 30, 30)).save(photo)
    out = tmp_path / "pictures" / "words.png"
    long = "a red star, " + "left of a gear " * 40
    assert call("align", runs["Sparc"], photo, long, "--out", out, "--width", "640") == (0, "")
    said = capsys.readouterr().out
    assert "star " in said and "not read, beyond this model's 40 tokens: " in said
    with Image.open(out) as page:
        assert page.width == 640 and page.height > 150
    assert "no image" in refusal(call("align", runs["Sparc"], tmp_path / "none.jpg", "a star"))
    assert "no words" in refusal(call("align", runs["Sparc"], photo, " ,. "))
    assert "use a .png" in refusal(call("align", runs["Sparc"], photo, "a", "--out", "x.pdf"))
