"""Any mm config -> one that is trained safely, and what stops it before the first step."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import METRICS, MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn

from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.engine import checkpoint, mmengine_patches
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from tools import train
from transfer import mm
from transfer.run import recipe
from transfer.run.hooks import DataCheckHook, enlarged, legible_labels

ROOT = Path(__file__).parents[3]

# ------------------------------------------------------------------ harden


def test_checkpoints_optimizer_and_hooks_become_the_engines() -> None:
    cfg = Config(
        dict(
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=7)),
            custom_hooks=[dict(type="EMAHook")],
            optim_wrapper=dict(
                type="AmpOptimWrapper",
                loss_scale="dynamic",
                optimizer=dict(type="SGD", lr=0.1),
                clip_grad=dict(max_norm=1.0),
            ),
        )
    )
    recipe.harden(cfg)
    assert cfg.default_hooks.checkpoint == dict(type="sparc.CheckpointHook", interval=7)
    assert [hook.type for hook in cfg.custom_hooks] == ["EMAHook", *recipe.ENGINE_HOOKS]
    assert cfg.randomness == dict(seed=0)
    assert cfg.optim_wrapper == dict(
        type="sparc.GuardedOptimWrapper",
        amp=True,
        optimizer=dict(type="SGD", lr=0.1),
        clip_grad=dict(max_norm=1.0),
    )


def test_hardening_twice_is_hardening_once() -> None:
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1))))
    once = recipe.harden(cfg).to_dict()
    assert recipe.harden(Config(once)).to_dict() == once
    assert once["default_hooks"]["checkpoint"]["type"] == "sparc.CheckpointHook"


def test_what_the_user_chose_is_kept() -> None:
    hook = dict(type="sparc.RecordHook", pictures=3)
    cfg = Config(dict(randomness=dict(seed=5, deterministic=True), custom_hooks=[hook]))
    cfg.optim_wrapper = dict(type="MyWrapper", loss_scale=2.0)
    recipe.harden(cfg)
    assert cfg.randomness == dict(seed=5, deterministic=True)
    assert [h for h in cfg.custom_hooks if h.type == "sparc.RecordHook"] == [hook]
    assert cfg.optim_wrapper == dict(type="MyWrapper", loss_scale=2.0)


def test_the_clipping_of_an_mm_config_still_clips() -> None:
    from mmengine.optim import build_optim_wrapper

    cfg = Config(
        dict(
            optim_wrapper=dict(
                optimizer=dict(type="SGD", lr=1.0), clip_grad=dict(max_norm=0.5, norm_type=2)
            )
        )
    )
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    wrapper = build_optim_wrapper(model, recipe.harden(cfg).optim_wrapper)
    wrapper.update_params(model(torch.tensor([[30.0, 40.0]])).sum())
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[-0.3, -0.4]]))


def test_one_process_has_ordinary_batch_norm_wherever_it_is_named() -> None:
    norm = dict(type="SyncBN", requires_grad=True)
    model = dict(backbone=dict(norm_cfg=dict(norm)), heads=[dict(norm_cfg=dict(norm)), dict(a=1)])
    recipe.single_process_norms(model)
    assert model["backbone"]["norm_cfg"] == dict(type="BN", requires_grad=True)
    assert model["heads"] == [dict(norm_cfg=dict(type="BN", requires_grad=True)), dict(a=1)]


# ------------------------------------------------------------------ check_files


def loaders(root: Path, **dataset: Any) -> Config:
    dataset = dict(
        data_root=str(root), ann_file="boxes.json", data_prefix=dict(img="images"), **dataset
    )
    repeated = dict(type="RepeatDataset", dataset=dict(type="CocoDataset", **dataset))
    return Config(dict(train_dataloader=dict(dataset=repeated), test_dataloader=None))


def test_files_of_every_loader_must_be_there_also_inside_wrapped_data_sets(tmp_path: Path) -> None:
    cfg = loaders(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train_dataloader: ann_file \S+boxes\.json"):
        recipe.check_files(cfg, ("train_dataloader",))
    (tmp_path / "boxes.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"train_dataloader: img .*images does not exist"):
        recipe.check_files(cfg, ("train_dataloader",))
    (tmp_path / "images").mkdir()
    recipe.check_files(cfg, ("train_dataloader", "test_dataloader", "val_dataloader"))


def test_a_data_set_without_an_annotation_file_is_judged_by_its_folders(tmp_path: Path) -> None:
    dataset = dict(
        type="BaseSegDataset",
        data_root=str(tmp_path),
        data_prefix=dict(img_path="images", seg_map_path="maps"),
    )
    cfg = Config(dict(val_dataloader=dict(dataset=dict(datasets=[dataset]))))
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"seg_map_path .*maps"):
        recipe.check_files(cfg, ("val_dataloader",))


# ------------------------------------------------------------------ load


def test_a_config_of_an_installed_package_is_found_and_an_absent_one_named(tmp_path: Path) -> None:
    name = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
    cfg = recipe.load(name, {"model.backbone.init_cfg": None}, str(tmp_path / "work"))
    assert cfg.model.type == "RetinaNet"
    assert cfg.optim_wrapper.type == "sparc.GuardedOptimWrapper"
    with pytest.raises(FileNotFoundError, match="no-such"):
        recipe.load("mmdet::no-such.py", None, str(tmp_path / "work"))
    cfg = recipe.load("mmseg::fcn/fcn_r50-d8_4xb2-80k_cityscapes-512x1024.py", None, str(tmp_path))
    assert cfg.default_scope == "mmseg"


def test_a_part_of_a_config_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text("things = ('a', 'b')")
    with pytest.raises(ValueError, match="has no model"):
        recipe.load(str(tmp_path / "part.py"), None, str(tmp_path / "work"))
    with pytest.raises(FileNotFoundError, match="no config file"):
        recipe.load(str(tmp_path / "none.py"), None, str(tmp_path / "work"))
    (tmp_path / "whole.py").write_text("model = dict(type='RetinaNet')")
    with pytest.raises(ValueError, match="--from-scratch needs --backbone"):
        recipe.load(str(tmp_path / "whole.py"), None, str(tmp_path / "work"), scratch=True)


# ------------------------------------------------------------------ DataCheckHook


class Head(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes


Head.__module__ = "mmdet.models.heads"
RPNHead = type("RPNHead", (Head,), {"__module__": "mmdet.models.heads"})
Stranger = type("Stranger", (Head,), {"__module__": "torchvision.ops"})


def check(dataset: Any, **heads: nn.Module) -> None:
    loader = SimpleNamespace(dataset=dataset)
    DataCheckHook().before_train(
        SimpleNamespace(train_dataloader=loader, model=nn.ModuleDict(heads), val_loop=None)
    )


class Data(list):
    """A data set with the attributes that mm's have."""

    ann_file = "boxes.json"

    def __init__(self, *items: Any) -> None:
        super().__init__(*items)
        self.metainfo = {"classes": ("cat", "dog", "cow")}


def test_an_empty_data_set_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"the training data set is empty: boxes\.json"):
        check(Data())


def test_a_head_with_another_number_of_classes_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"box \(Head\) has num_classes=80.*set num_classes=3"):
        check(Data([1]), box=Head(80))
    check(Data([1]), box=Head(3))


def test_wrapped_data_sets_are_looked_into() -> None:
    outer = Data([1])
    outer.dataset, outer.metainfo = Data([1]), {}
    with pytest.raises(ValueError, match="num_classes=5"):
        check(outer, box=Head(5))


def test_a_detr_head_classifies_categories() -> None:
    head = type("DeformableDETRHead", (Head,), {"__module__": "mmdet.models.heads"})
    with pytest.raises(ValueError, match=r"DeformableDETRHead\) has num_classes=80"):
        check(Data([1]), box=head(80))


def test_heads_that_do_not_classify_categories_are_left_alone() -> None:
    check(Data([1]), box=Head(3), rpn_head=RPNHead(1), other=Stranger(1000))


def test_a_panoptic_model_has_heads_of_things_of_stuff_and_of_both() -> None:
    data = Data([1])
    data.metainfo = {"classes": tuple("abcde"), "thing_classes": ("a", "b"), "stuff_classes": "cde"}
    check(data, box=Head(2), semantic=Head(4), both=Head(5))
    with pytest.raises(ValueError, match="num_classes=6"):
        check(data, box=Head(6))


def test_a_head_is_compared_before_a_test_as_well() -> None:
    runner = SimpleNamespace(
        test_dataloader=SimpleNamespace(dataset=Data([1])),
        test_evaluator=SimpleNamespace(metrics=[]),
        model=nn.ModuleDict({"box": Head(80)}),
    )
    with pytest.raises(ValueError, match="set num_classes=3"):
        DataCheckHook().before_test(runner)


def test_categories_that_the_file_does_not_have_are_counted() -> None:
    data = Data([1])
    data.cat_ids = [1, 2]
    with pytest.raises(ValueError, match=r"boxes\.json holds 2 of the 3 categories"):
        check(data)


# ------------------------------------------------------------------ RecordHook


@METRICS.register_module(force=True)
class MeanOutput(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [sample["value"] for sample in data_samples]

    def compute_metrics(self, results: list) -> dict[str, float]:
        return {"mean": sum(results) / len(results), "absent": float("nan")}


class Scalar(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def forward(self, x: Tensor, mode: str = "tensor") -> Any:
        if mode == "loss":
            return {"loss": self.net(x).square().mean()}
        return [BaseDataElement(value=v) for v in self.net(x).flatten().tolist()]


class Points(list):
    ann_file = "points.json"


def make_runner(work_dir: Path, **top: Any) -> Runner:
    loader = dict(
        dataset=Points({"x": torch.tensor([i, 1.0])} for i in range(4)),
        batch_size=2,
        sampler=dict(type="DefaultSampler", shuffle=False),
        collate_fn=dict(type="default_collate"),
    )
    metric = dict(type="MeanOutput", prefix="toy")
    torch.manual_seed(0)
    cfg = Config(dict(task="toy", config_name="configs/toy.py", **top))
    return Runner(
        model=Scalar(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        val_evaluator=metric,
        test_evaluator=metric,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        val_cfg=dict(),
        test_cfg=dict(),
        optim_wrapper=dict(type="sparc.GuardedOptimWrapper", optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(checkpoint=dict(type="sparc.CheckpointHook", interval=1)),
        custom_hooks=[dict(type="sparc.RecordHook")],
        experiment_name=f"{work_dir.parent.name}-{work_dir.name}",
        log_level="ERROR",
        cfg=cfg,
    )


def test_every_evaluation_leaves_its_record_and_the_ancestry_travels_with_the_weights(
    tmp_path: Path,
) -> None:
    line = {"run": "sparc/run-5", "sha256": "ab" * 32, "objective": "Sparc", "samples_seen": 9}
    trainer = make_runner(tmp_path / "train", ancestry=line)
    trainer.train()
    record = json.loads((tmp_path / "train" / "metrics.json").read_text())
    assert (record["task"], record["config"]) == ("toy", "configs/toy.py")
    assert record["backbone"] == line and record["data"] == "points.json"
    assert record["checkpoint"] == "iteration 2" and record["protocol"]["iterations"] == 2
    assert record["metrics"]["toy/absent"] is None
    assert torch.__version__.startswith(record["versions"]["torch"])

    saved = tmp_path / "train" / "epoch_1.pth"
    assert checkpoint.load(saved)["ancestry"] == line
    tester = make_runner(tmp_path / "test", checkpoint=str(saved))  # a config that knows of no run
    tester.load_checkpoint(str(saved))
    tester.test()
    tested = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert tested["metrics"] == record["metrics"] and tested["metrics"]["toy/mean"] != 0
    assert tested["backbone"] == line and tested["checkpoint"] == str(saved)


def test_boxes_and_maps_grow_with_a_picture_that_is_too_small_for_labels() -> None:
    sample = DetDataSample(
        gt_instances=InstanceData(bboxes=torch.tensor([[1.0, 2.0, 30.0, 40.0]])),
        gt_sem_seg=PixelData(data=torch.arange(64 * 100).reshape(1, 64, 100)),
    )
    image, grown = enlarged(np.zeros((64, 100, 3), np.uint8), sample)
    assert image.shape == (320, 500, 3)  # five times
    assert grown.gt_instances.bboxes.tolist() == [[5, 10, 150, 200]]
    assert torch.equal(grown.gt_sem_seg.data[:, 2::5, 2::5], sample.gt_sem_seg.data)
    assert sample.gt_instances.bboxes.tolist() == [[1, 2, 30, 40]]  # the metric's stay
    large = np.zeros((320, 400, 3), np.uint8)
    assert enlarged(large, sample)[0] is large


def test_names_of_small_boxes_are_written_large_and_mmdet_is_left_as_it_was() -> None:
    from mmdet.visualization import DetLocalVisualizer, local_visualizer

    drawn = []
    for how in (nullcontext, legible_labels):
        canvas = DetLocalVisualizer()
        canvas.dataset_meta = {"classes": ("mushroom",), "palette": [(255, 255, 255)]}
        box = InstanceData(
            bboxes=torch.tensor([[100.0, 100, 130, 130]]), labels=torch.zeros(1).long()
        )
        sample = DetDataSample(gt_instances=box)
        with how():
            canvas.add_datasample("x", np.zeros((384, 384, 3), np.uint8), sample, draw_pred=False)
        drawn.append((canvas.get_image().max(axis=-1) > 100).sum())
    assert drawn[1] > 1.3 * drawn[0]
    assert local_visualizer._get_adaptive_scales(np.array([900.0])) <= 0.51


def test_masks_grow_with_their_picture() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 10:20, 30:50] = True
    boxes = torch.tensor([[30.0, 10.0, 50.0, 20.0]])
    drawn = BitmapMasks(mask.numpy().astype(np.uint8), 64, 64)
    sample = DetDataSample(
        gt_instances=InstanceData(bboxes=boxes, masks=drawn),
        pred_instances=InstanceData(bboxes=boxes, masks=mask),
    )
    image, grown = enlarged(np.zeros((64, 64, 3), np.uint8), sample)
    assert image.shape == (320, 320, 3)
    truth, found = grown.gt_instances.masks.to_ndarray(), grown.pred_instances.masks.numpy()
    assert truth.shape == found.shape == (1, 320, 320)
    assert found.sum() == 25 * mask.sum() and found[0, 50:100, 150:250].all()
    assert (truth.astype(bool) == found).mean() > 0.99
    assert sample.pred_instances.masks is mask


def test_random_weights_have_no_ancestry(tmp_path: Path) -> None:
    make_runner(tmp_path / "train", ancestry=None).train()
    assert json.loads((tmp_path / "train" / "metrics.json").read_text())["backbone"] is None


@pytest.fixture(scope="module", autouse=True)
def mmdet() -> None:
    """mmdet's import belongs to no single test."""
    mm.register("mmdet")


def test_a_config_with_several_evaluators_is_read(tmp_path: Path) -> None:
    cfg = recipe.load(
        "mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py", {"load_from": None}, str(tmp_path)
    )
    assert [one.type for one in cfg.val_evaluator] == ["CocoMetric", "CityScapesMetric"]


def test_a_record_names_the_config_that_was_trained_wherever_it_is_called_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ROOT / "configs/quickstart/det.py"
    monkeypatch.chdir(tmp_path)
    cfg = recipe.load(str(config), None, str(tmp_path / "work"))
    assert cfg.config_name == "configs/quickstart/det.py"
    copied = tmp_path / "work/det.py"
    cfg.dump(str(copied))
    assert recipe.load(str(copied), None, "test").config_name == "configs/quickstart/det.py"
    own = tmp_path / "mine.py"  # edited by someone: another config
    shutil.copy(copied, own)
    assert recipe.load("mine.py", None, "test").config_name == "mine.py"


def test_a_pretraining_config_is_sent_to_its_own_tool(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"use tools/pretrain\.py"):
        recipe.load(str(ROOT / "configs" / "sparc.py"), None, str(tmp_path))


# ------------------------------------------------------------------ any config on a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = DualEncoder(
        VisionTower("vit_tiny_patch16_224", 32, overrides=dict(embed_dim=32, depth=2, num_heads=2)),
        TextTower(vocab_size=300, width=24, layers=1, heads=2, max_tokens=10),
        16,
        mean=(0.25, 0.5, 0.75),
        std=(0.125, 0.25, 0.5),
    )
    return model.save_pretrained(tmp_path_factory.mktemp("work") / "run").path


STOCK = "mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py"


def test_a_dry_run_prints_every_change_with_its_reason_and_touches_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main([STOCK, "--backbone", str(run), "--dry-run", "--layer-decay", "0.7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [line.split(":")[0] for line in lines]
    assert starts[:2] == ["model.backbone", "model.pretrained"]
    assert {"model.neck", "model.data_preprocessor.mean", "optim_wrapper.constructor"} <= {*starts}
    assert all(line.endswith(")") and (" -> " in line or " stays " in line) for line in lines)
    assert not list(tmp_path.iterdir())


def test_options_of_the_backbone_and_weights_of_the_model_are_for_what_comes(
    run: Path, tmp_path: Path
) -> None:
    options = {
        "model.backbone.frozen": True,
        "model.backbone.drop_path_rate": 0.1,
        "model.decode_head.dropout_ratio": 0.3,
        "load_from": "mine.pth",
    }
    cfg = recipe.load(STOCK, options, str(tmp_path), backbone=str(run), dry=True)
    assert cfg.model.backbone.type == "sparc.SparcViT"
    assert (cfg.model.backbone.frozen, cfg.model.backbone.drop_path_rate) == (True, 0.1)
    assert cfg.model.decode_head.dropout_ratio == 0.3 and cfg.load_from == "mine.pth"
    ours = str(ROOT / "configs/quickstart/det.py")  # a SparcViT already: the plug must see it
    cfg = recipe.load(
        ours, {"model.backbone.window": 2}, str(tmp_path), backbone=str(run), dry=True
    )
    assert cfg.model.backbone.window == 2


def test_a_dry_run_needs_a_run_and_a_run_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--dry-run shows what --backbone RUN and"):
        train.main([STOCK, "--dry-run"])
    with pytest.raises(FileNotFoundError, match=r"no run folder at \S+nowhere"):
        train.main([STOCK, "--backbone", str(tmp_path / "nowhere"), "--dry-run"])


def test_a_work_dir_with_checkpoints_is_not_trained_into_by_mistake(tmp_path: Path) -> None:
    checkpoint.refuse_overwriting(tmp_path / "new")
    (tmp_path / "iter_9.pth").touch()
    (tmp_path / "iter_10.pth").touch()
    with pytest.raises(FileExistsError, match=r"the newest iter_10\.pth: .*--resume.*--force"):
        checkpoint.refuse_overwriting(tmp_path)


def test_a_training_that_starts_anew_asks_and_one_that_is_forced_or_resumed_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "iter_9.pth").touch()
    cfg = Config(dict(model=dict(), optim_wrapper=dict(), custom_hooks=[], work_dir=str(tmp_path)))
    begun = []
    monkeypatch.setattr(recipe, "load", lambda *_: cfg)
    monkeypatch.setattr(mmengine_patches, "resolve_resume", lambda *_: None)
    monkeypatch.setattr(
        Runner, "from_cfg", lambda _: SimpleNamespace(train=lambda: begun.append(True))
    )
    with pytest.raises(FileExistsError, match=r"iter_9\.pth"):
        train.main(["config.py"])
    assert not begun
    train.main(["config.py", "--force"])
    train.main(["config.py", "--resume"])
    assert len(begun) == 2


def test_a_fine_tuned_checkpoint_is_tested_without_the_run_folder(
    run: Path, tmp_path: Path
) -> None:
    """The plugged config, written beside the checkpoint, holds all that the model is built from."""
    gone = tmp_path / "gone"
    shutil.copytree(run, gone)
    cfg = recipe.load(STOCK, None, str(tmp_path / "work"), str(gone))
    recipe.single_process_norms(cfg.model)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(cfg.model)
    model.init_weights()
    cfg.dump(tmp_path / "work" / "copy.py")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    shutil.rmtree(gone)
    again = recipe.load(str(tmp_path / "work" / "copy.py"), None, str(tmp_path / "test"))
    assert again.ancestry == cfg.ancestry
    with DefaultScope.overwrite_default_scope("mmseg"):
        tested = MODELS.build(again.model).eval()
    tested.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(tested(image), model.eval()(image))
