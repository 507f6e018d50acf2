"""The open-vocabulary detector: its words, its towers, that it learns, and the tools around it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.engine import checkpoint
from sparc_pretrain.run_folder import RunFolder
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from tests.commands import ROOT, call
from tests.models import VISION
from transfer.detection.metrics import evaluate
from transfer.detection.mmdet_bases import BaseDetector
from transfer.detection.open_vocabulary.model import OpenVocabularyDetector
from transfer.detection.open_vocabulary.prompts import BEST, same_thing, spoken, templates
from transfer.plug import plug

CONFIGS = sorted((ROOT / "configs").glob("[a-z]*/open_vocabulary*.py"))
WORDS = ("red square", "blue disc", "green_bar")
SIZE = 64


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A small run folder with random weights and a tokenizer."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["a photo of the red square", "art of the blue disc"], 300)
    text = TextTower(tokenizer.vocab_size, width=24, layers=2, heads=2, max_tokens=48)
    model = DualEncoder(VisionTower(**VISION), text, 16, tokenizer=tokenizer)
    extra = {"objective": {"type": "Sparc"}, "samples_seen": 0}
    return model.save_pretrained(tmp_path_factory.mktemp("work") / "run", extra)


def make(run: RunFolder, weights: bool = True, **options: Any) -> OpenVocabularyDetector:
    torch.manual_seed(0)
    config = dict(
        type="sparc.OpenVocabularyDetector",
        backbone=dict(
            type="sparc.SparcViT",
            run=str(run.path) if weights else None,
            vision=run.config["vision"],
            patch=None,
        ),
        text=run.config["text"],
        width=run.config["width"],
        tokenizer=str(run.path / "tokenizer.json"),
        train_templates=["a photo of the {}."],
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build({**config, **options})
    model.init_weights()
    return model


def image_of(*things: tuple[str, list[int]]) -> Tensor:
    """[1,3,64,64]: coloured boxes on grey."""
    colours = {"red square": 0, "green_bar": 1, "blue disc": 2}
    image = torch.zeros(1, 3, SIZE, SIZE)
    for name, (x1, y1, x2, y2) in things:
        image[0, colours[name], y1:y2, x1:x2] = 2.0
    return image


def sample_of(things: list[tuple[str, list[int]]], words=WORDS, **more: Any) -> Any:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    meta = dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), scale_factor=(1.0, 1.0), text=words)
    sample = DetDataSample(metainfo={**meta, **more})
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([box for _, box in things], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([words.index(name) for name, _ in things], dtype=torch.long),
    )
    return sample


SCENES = (
    [("red square", [4, 4, 28, 28]), ("blue disc", [36, 32, 60, 60])],
    [("green_bar", [8, 40, 56, 56]), ("red square", [40, 4, 60, 24])],
)


# ------------------------------------------------------------------ words


def test_prompts_are_read_as_captions() -> None:
    assert spoken("frying_pan") == "frying pan"
    assert same_thing("Bow_(weapon)") == same_thing("bow") == "bow"
    assert templates("best") == BEST and len(templates("clip")) == 80
    assert all(t.count("{}") == 1 for t in templates("clip"))
    for wrong in (["a photo"], [], "worst"):
        with pytest.raises(ValueError, match="templates"):
            templates(wrong)


def test_at_test_time_a_word_is_the_mean_over_the_templates(run: RunFolder) -> None:
    model = make(run, test_templates=["a {}.", "the red {}"]).eval()
    encoder = DualEncoder.from_pretrained(run.path)
    with torch.no_grad():
        queries = model.queries(WORDS)
        for word, query in zip(WORDS, queries, strict=True):
            name = word.replace("_", " ")
            parts = encoder.encode_text([f"a {name}.", f"the red {name}"], normalize=True)
            expected = parts.mean(0) / parts.mean(0).norm()
            torch.testing.assert_close(query, expected, atol=1e-5, rtol=1e-4)


def test_words_are_encoded_once_until_they_or_the_weights_change(run: RunFolder) -> None:
    model = make(run).eval()
    with torch.no_grad():
        first = model.queries(WORDS)
        assert model.queries(WORDS) is first
        other = model.queries(("a zebra",))
        assert other.shape == (1, 16)
        again = model.queries(WORDS)
        assert again is not first and torch.equal(again, first)
        model.g_t.weight.data *= -1
        model.train()
        model.eval()
        assert not torch.allclose(model.queries(WORDS), first)
        kept = model.queries(WORDS)
        model.load_state_dict(model.state_dict())
        assert model.queries(WORDS) is not kept


def test_in_training_words_have_gradients_and_one_drawn_template(run: RunFolder) -> None:
    model = make(run, train_templates=["a {}.", "the red {}"]).train()
    seen = {tuple(model.queries(("blue disc",))[0].tolist()) for _ in range(20)}
    assert len(seen) == 2
    model.queries(WORDS).sum().backward()
    assert model.text.net.embeddings.token_embedding.weight.grad.abs().sum() > 0


def test_any_words_can_be_looked_for_in_any_order(run: RunFolder) -> None:
    model = make(run, test_cfg=dict(max_per_img=10_000)).eval()
    image = image_of(*SCENES[0])

    def found(words: tuple[str, ...]) -> dict[tuple[str, tuple], float]:
        with torch.no_grad():
            (sample,) = model.predict(image, [sample_of([], words)])
        held = sample.pred_instances
        boxes = [tuple(round(v, 3) for v in box) for box in held.bboxes.tolist()]
        assert [words[k] for k in held.labels.tolist()] == held.label_names
        return dict(
            zip(zip(held.label_names, boxes, strict=True), held.scores.tolist(), strict=True)
        )

    before, after = found(WORDS), found(("a dog on a sofa", *WORDS[::-1]))
    assert len(before) == 64 * 3 and len(after) == 64 * 4
    for key, score in before.items():
        assert after[key] == pytest.approx(score, abs=1e-5)


def test_an_image_without_words_is_refused_unless_the_model_has_some(run: RunFolder) -> None:
    model = make(run).eval()
    with pytest.raises(ValueError, match="no words to look for"):
        model.predict(image_of(), [sample_of([], ())])
    asked = make(run, classes=["a dog"]).eval()
    (sample,) = asked.predict(image_of(), [sample_of([], ())])
    assert set(sample.pred_instances.label_names) == {"a dog"}
    with pytest.raises(ValueError, match="training images bring no words"):
        model.train().loss(image_of(), [sample_of([], ())])
    with pytest.raises(ValueError, match="tokenizer is missing"):
        make(run, tokenizer=None).queries(WORDS)


# ------------------------------------------------------------------ weights


def test_both_towers_and_the_adapters_come_from_the_run_folder(run: RunFolder) -> None:
    model, weights = make(run), run.weights()
    state = model.state_dict()
    assert isinstance(model, BaseDetector)
    for name, value in weights.items():
        for theirs, ours in (
            ("vision.", "backbone.tower."),
            ("text.", "text."),
            ("adapters.g_t.", "g_t."),
            ("adapters.g_v.", "class_head.project."),
        ):
            if name.startswith(theirs):
                assert torch.equal(state[ours + name.removeprefix(theirs)], value), name
    scratch = make(run, weights=False).state_dict()
    assert not torch.equal(scratch["g_t.weight"], state["g_t.weight"])


def test_without_the_gate_patches_start_on_the_embeddings_of_pre_training(run: RunFolder) -> None:
    model, encoder = make(run, pooled_gate=False).eval(), DualEncoder.from_pretrained(run.path)
    image = image_of(*SCENES[0])
    with torch.no_grad():
        unit = model._forward(image)[1]
        torch.testing.assert_close(unit, encoder.encode_patches(image, normalize=True))


def test_towers_that_do_not_belong_together_are_refused(run: RunFolder) -> None:
    with pytest.raises(ValueError, match=r"has the text tower .* start with --backbone"):
        make(run, text={**run.config["text"], "layers": 1})
    with pytest.raises(ValueError, match="not of the same run"):
        make(run, text={**run.config["text"], "vocab_size": 100})


@pytest.mark.parametrize("style", [dict(causal=True, pool="argmax"), dict(pool="last")])
def test_converted_text_towers_are_read_as_their_run_reads_them(
    run: RunFolder, tmp_path: Path, style: dict[str, Any]
) -> None:
    tokenizer = Tokenizer.load(run.path)
    config = {**run.config["text"], **style}
    encoder = DualEncoder(
        VisionTower(**VISION), TextTower.from_config(config), 16, tokenizer=tokenizer
    ).eval()
    other = encoder.save_pretrained(tmp_path / "run", {"objective": {"type": "Clip"}})
    model = make(other, text_drop_path=0.5).eval()
    with torch.no_grad():
        expected = encoder.encode_text(list(WORDS), normalize=True)
        torch.testing.assert_close(model.embed(WORDS), expected)
        assert not torch.allclose(model.train().embed(WORDS), expected, atol=1e-3)


# ------------------------------------------------------------------ learning


def test_a_class_nobody_looked_for_gets_no_gradient_through_the_whole_model(run: RunFolder) -> None:
    model = make(run, pooled_gate=False).train()
    seen: list[Tensor] = []
    inner = model.queries
    model.queries = lambda words: seen.append(inner(words).detach().requires_grad_()) or seen[-1]
    more = dict(
        query_names=WORDS,
        regions=[(0, 0, SIZE, SIZE)],
        known=np.array([[True, False, False]]),
    )
    losses = model.loss(image_of(*SCENES[0]), [sample_of(SCENES[0], **more)])
    losses["loss_cls"].backward()
    gradient = seen[0].grad.abs().sum(dim=1)
    # known; positive though others of it may be unmarked; unknown
    assert gradient[0] > 0 and gradient[1] > 0 and gradient[2] == 0


def test_a_class_that_only_another_image_asks_for_is_unknown_here(run: RunFolder) -> None:
    model = make(run).eval()  # eval: no drop path, the same templates

    def sums(images: Tensor, samples: list) -> Tensor:
        with torch.no_grad():
            losses = model.loss(images, samples)
        return torch.stack(list(losses.values())) * sum(len(s.gt_instances) for s in samples)

    samples = [
        sample_of(SCENES[0][:1], ("red square",)),
        sample_of(SCENES[1][:1], ("green_bar", "blue disc")),
    ]
    images = [image_of(*scene) for scene in SCENES]
    alone = sums(images[0], samples[:1]) + sums(images[1], samples[1:])
    torch.testing.assert_close(sums(torch.cat(images), samples), alone, rtol=1e-4, atol=1e-4)


def test_an_image_without_objects_and_a_crowd_cost_what_they_should(run: RunFolder) -> None:
    model = make(run).train()
    empty = sample_of([])
    losses = model.loss(image_of(), [empty])
    assert losses["loss_bbox"] == 0 == losses["loss_giou"] and losses["loss_cls"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.box_head.parameters())
    crowd = sample_of([])
    crowd.ignored_instances = sample_of([("red square", [0, 0, SIZE, SIZE])]).gt_instances
    with torch.no_grad():
        assert model.loss(image_of(), [crowd])["loss_cls"] < losses["loss_cls"]


def test_two_images_are_learnt_by_heart(run: RunFolder) -> None:
    model = make(run, scale=5.0, pooled_gate=True).train()
    images = torch.cat([image_of(*scene) for scene in SCENES])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        loss = sum(model.loss(images, [sample_of(list(scene)) for scene in SCENES]).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    truth: dict[str, list] = dict(images=[], annotations=[], categories=[])
    truth["categories"] = [dict(id=k, name=name) for k, name in enumerate(WORDS, start=1)]
    rows = []
    with torch.no_grad():
        samples = model.eval().predict(images, [sample_of([]) for _ in SCENES])
    for i, (scene, sample) in enumerate(zip(SCENES, samples, strict=True)):
        truth["images"].append(dict(id=i, width=SIZE, height=SIZE))
        for name, (x1, y1, x2, y2) in scene:
            box = [x1, y1, x2 - x1, y2 - y1]
            label = WORDS.index(name) + 1
            row = dict(id=len(truth["annotations"]) + 1, image_id=i, category_id=label, bbox=box)
            truth["annotations"].append({**row, "area": box[2] * box[3]})
        held = sample.pred_instances
        for box, score, label in zip(held.bboxes, held.scores, held.labels, strict=True):
            x1, y1, x2, y2 = box.tolist()
            row = dict(image_id=i, category_id=int(label) + 1, score=float(score))
            rows.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    assert evaluate(truth, rows)["AP"] > 0.5


def test_boxes_are_given_in_pixels_of_the_original_image_and_inside_it(run: RunFolder) -> None:
    model = make(run).eval()
    shapes = dict(img_shape=(SIZE, SIZE), ori_shape=(16, 32), scale_factor=(2.0, 2.0))
    with torch.no_grad():
        (big,) = model.predict(image_of(), [sample_of([])])
        (small,) = model.predict(image_of(), [sample_of([], **shapes)])
    expected = big.pred_instances.bboxes / 2
    limits = torch.tensor([32.0, 16.0, 32.0, 16.0])
    torch.testing.assert_close(small.pred_instances.bboxes, torch.minimum(expected, limits))


def test_an_image_that_patches_do_not_divide_is_read_on_its_own_scale(run: RunFolder) -> None:
    model = make(run).eval()
    with torch.no_grad():
        boxes = model._forward(torch.zeros(1, 3, 60, 52))[0][0]
    # untrained: every box is its patch of 8 px, also those that reach beyond the image
    pixels = boxes * torch.tensor([52.0, 60.0, 52.0, 60.0])
    torch.testing.assert_close(pixels[0], torch.tensor([4.0, 4.0, 8.0, 8.0]), atol=1e-2, rtol=0)
    torch.testing.assert_close(pixels[-1], torch.tensor([52.0, 60.0, 8.0, 8.0]), atol=1e-2, rtol=0)


def test_duplicates_can_be_suppressed_and_low_scores_left_out(run: RunFolder) -> None:
    found = {}
    for name, test_cfg in {
        "all": dict(max_per_img=500),
        "few": dict(max_per_img=7),
        "none": dict(score_thr=0.9),
        "nms": dict(max_per_img=500, nms_iou=0.0),
    }.items():
        with torch.no_grad():
            (sample,) = make(run, test_cfg=test_cfg).eval().predict(image_of(), [sample_of([])])
        found[name] = len(sample.pred_instances)
    assert (found["all"], found["few"], found["none"]) == (192, 7, 0)
    assert found["nms"] <= 192


# ------------------------------------------------------------------ configs and tools


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_config_is_built_and_its_text_tower_learns_more_slowly(path: Path) -> None:
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    base, mult = cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.paramwise_cfg.text_lr_mult
    for name, weight in model.named_parameters():
        slow = name.startswith(("text.", "g_t."))
        assert rate[id(weight)] == pytest.approx(base * mult if slow else base), name
    assert len(CONFIGS) == 5


def test_the_full_scale_recipe_is_that_of_the_paper() -> None:
    cfg = Config.fromfile(ROOT / "configs" / "det" / "open_vocabulary_lvis.py")
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        model = MODELS.build(cfg.model)
    assert (model.backbone.tower.depth, model.backbone.out_channels) == (12, 768)
    assert model.text.settings["layers"] == 12 and model.g_t.out_features == 512
    rates = [block.drop_path1.drop_prob for block in model.backbone.tower.net.blocks[1:]]
    assert rates[-1] == pytest.approx(0.2)
    mosaic, queries, _ = cfg.train_dataloader.dataset.pipeline
    assert (mosaic.size, mosaic.grids, mosaic.probs) == (768, (1, 2, 3), (0.4, 0.3, 0.3))
    assert (queries.negatives, queries.max_queries) == (50, 100)
    assert cfg.train_dataloader.dataset.dataset.leave_out_frequency == ("r",)
    assert "leave_out_frequency" not in cfg.val_dataloader.dataset


def test_a_plugged_config_reads_the_runs_words(run: RunFolder) -> None:
    cfg = Config.fromfile(ROOT / "configs" / "quickstart" / "open_vocabulary.py")
    plug(cfg, run.path)
    assert cfg.model.text == run.config["text"] and cfg.model.width == 16
    assert cfg.model.backbone.run == str(run.path)
    assert cfg.model.tokenizer == str(run.path / "tokenizer.json")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with scenes; while it is used, config texts are left as they are: yapf is slow."""
    folder = tmp_path_factory.mktemp("tools")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **kwargs: (text, True))
        numbers = ["--train", "12", "--val", "4", "--size", "64"]
        code, said = call("data", "scenes", "--out", folder / "scenes", *numbers)
        assert code == 0, said
        yield folder


def options(place: Path, name: str) -> list[str]:
    found = [
        "train_cfg.max_iters=2",
        "train_cfg.val_interval=2",
        "default_hooks.checkpoint.interval=2",
        "train_dataloader.batch_size=4",
        "train_dataloader.dataset.pipeline.0.size=64",
        # every class of so few scenes is rare
        "train_dataloader.dataset.dataset.leave_out_names=[anchor]",
        "train_dataloader.dataset.dataset.leave_out_frequency=[]",
        f"train_dataloader.dataset.dataset.data_root={place}/scenes/",
        f"experiment_name={place.name}-{name}",
    ]
    for split in ("val", "test"):
        found.append(f"{split}_dataloader.dataset.data_root={place}/scenes/")
        found += [
            f"{split}_dataloader.dataset.pipeline.{i}.{k}=(64,64)"
            for i, k in ((1, "scale"), (3, "size"))
        ]
        truth = place / "scenes" / "annotations" / "lvis_v1_val.json"
        found.append(f"{split}_evaluator.ann_file={truth}")
    return found


def test_the_tools_train_test_and_draw_it_without_the_run_folder(
    run: RunFolder, place: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "run"
    run.path.rename(moved)  # so that nothing can be read from it once it is gone
    try:
        work = place / "work"
        config = ROOT / "configs" / "quickstart" / "open_vocabulary.py"
        words = ["train", config, "--backbone", moved, "--work-dir", work]
        code, said = call(*words, "--cfg-options", *options(place, "train"))
        assert code == 0, said
        moved.rename(run.path)
        trained = json.loads((work / "metrics.json").read_text())
        assert {"lvis/bbox_AP", "lvis/bbox_APr", "lvis/bbox_fixed_AP"} <= trained["metrics"].keys()
        assert trained["backbone"]["sha256"] == run.sha256
        own = [work / "open_vocabulary.py", checkpoint.find_valid(work)]
        code, said = call(
            *["test", *own, "--work-dir", place / "tested"],
            *["--cfg-options", f"experiment_name={place.name}-test"],
        )
        assert code == 0, said
        tested = json.loads((place / "tested" / "metrics.json").read_text())
        assert tested["metrics"] == trained["metrics"]
        photo = next((place / "scenes" / "images" / "val").glob("*.jpg"))
        drawn = ["predict", *own, photo, "--out-dir", place / "drawn", "--score-thr", "0"]
        code, said = call(*drawn, "--words", "a purple cow, a star")
        assert code == 0, said
        assert (place / "drawn" / f"{photo.stem}.png").is_file()
    finally:
        if moved.exists():
            moved.rename(run.path)


def test_a_checkpoint_of_the_detector_loads_strictly_without_a_run(run: RunFolder) -> None:
    model, other = make(run), make(run, weights=False)
    other.load_state_dict(model.state_dict())
    image = image_of(*SCENES[0])
    with torch.no_grad():
        first, second = model.eval()._forward(image), other.eval()._forward(image)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
