"""The captioner behind a projector, its language model trained from random weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor
from torchvision.io import write_png

from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.registry import DATASETS, MODELS
from tests.transfer.captioning.captioner_parts import CAPTIONS, FAMILIES, SIZE
from transfer.captioning.data.dataset import TRIES, CaptionDataset
from transfer.captioning.model.chunks import Sequences
from transfer.captioning.model.flamingo import FlamingoCaptioner
from transfer.run.checkpoints import misfits

LANGUAGE_MODEL = dict(
    model_type="gpt2",
    n_layer=2,
    n_embd=48,
    n_head=4,
    n_positions=96,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    return str(Tokenizer.train(CAPTIONS, 320).save(folder))


def model_config(tokenizer: str | None) -> dict[str, Any]:
    return dict(
        type="sparc.FlamingoCaptioner",
        backbone=dict(type="sparc.ToyBackbone"),
        language_model=LANGUAGE_MODEL,
        bridge=dict(kind="mlp"),
        tokenizer=tokenizer,
        max_tokens=64,
        data_preprocessor=dict(type="sparc.ImagesPreprocessor", mean=[127.5] * 3, std=[60.0] * 3),
    )


def make(tokenizer: str | None, **options: Any) -> FlamingoCaptioner:
    torch.manual_seed(0)
    return MODELS.build({**model_config(tokenizer), **options})


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def samples(captions: list[str]) -> list[BaseDataElement]:
    return [BaseDataElement(metainfo={"caption": caption}) for caption in captions]


def fit(model: FlamingoCaptioner, pixels: Tensor, captions: list[str], steps: int) -> list[float]:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = model(pixels, samples(captions), mode="loss")["caption_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def fitted(tokenizer: str) -> tuple[FlamingoCaptioner, list[float]]:
    model = make(tokenizer)
    losses = fit(model, images(), CAPTIONS, 120)
    return model.eval(), losses


def test_four_captions_are_learnt_by_heart(fitted: tuple[FlamingoCaptioner, list[float]]) -> None:
    model, losses = fitted
    assert losses[0] > 5 and losses[-1] < 0.05
    assert model.generate(images()) == CAPTIONS


def test_another_image_gets_its_own_caption(fitted: tuple[FlamingoCaptioner, list[float]]) -> None:
    model, _ = fitted
    assert model.generate(images().flip(0)) == CAPTIONS[::-1]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_is_deterministic_and_the_same_one_by_one(
    tokenizer: str, num_beams: int
) -> None:
    model = make(tokenizer, generation=dict(num_beams=num_beams))
    fit(model, images(), CAPTIONS, 25)  # not yet by heart: captions of many lengths
    model.eval()
    together = model.generate(images())
    assert len(set(together)) > 1
    assert model.generate(images()) == together
    assert [model.generate(image[None])[0] for image in images()] == together


def logits(model: FlamingoCaptioner, pixels: Tensor, rows: Sequences) -> Tensor:
    """[B,T,V+1] of words, those of the prefix left out."""
    media = model.media(pixels)
    return model.logits(media, rows)[:, model.bridge.positions(media) :]


def test_words_see_the_image_and_the_words_before_them(tokenizer: str) -> None:
    model = make(tokenizer).eval()
    rows = model.chunks.training([[text] for text in CAPTIONS], prefix=16)
    before = logits(model, images(), rows)
    changed = copy.deepcopy(rows)
    changed.ids[:, 20] = 3 + changed.ids[:, 20] % 200
    after = logits(model, images(), changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert (before[:, 4:] - after[:, 4:]).abs().max() > 1e-3
    other = logits(model, -images(), rows)
    assert ((before - other)[rows.mask[:, 16:]].abs().amax(-1) > 1e-4).all()


def test_the_backbone_has_no_gradient_and_stays_in_eval(tokenizer: str) -> None:
    model = make(tokenizer)
    before = copy.deepcopy(model.backbone.state_dict())
    fit(model.train(), images(), CAPTIONS, 3)
    assert model.training and model.language_model.training
    assert not any(module.training for module in model.backbone.modules())
    assert all(p.grad is None and not p.requires_grad for p in model.backbone.parameters())
    trained = [*model.bridge.parameters(), *model.language_model.parameters()]
    assert all(p.grad is not None for p in trained)
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_grid_averages_patches_and_never_invents_any(tokenizer: str) -> None:
    for grid, positions in ((2, 4), (7, 16), (None, 16)):  # the map is 4 x 4
        bridge = dict(kind="mlp", grid=grid)
        assert make(tokenizer, bridge=bridge).media(images()).shape == (4, 1, positions, 48)
    model = make(tokenizer, bridge=dict(kind="mlp", grid=2))
    patches = model.backbone(images())[-1]
    quarters = patches.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean(dim=(3, 5)).flatten(2).mT
    torch.testing.assert_close(model.media(images())[:, 0], model.bridge.net.net(quarters))


@pytest.mark.parametrize("family", ["opt", "qwen2", "llama", "pythia"])
def test_the_files_it_leaves_build_the_same_language_model(
    tokenizer: str, family: str, tmp_path: Path
) -> None:
    first = make(tokenizer, language_model=FAMILIES[family]).eval()
    second = make(**first.leave_files(tmp_path)).eval()
    second.load_state_dict(first.state_dict())
    own, other = (one.language_model.config.to_dict() for one in (first, second))
    assert other | {"_name_or_path": ""} == own
    rows = first.chunks.training([[text] for text in CAPTIONS], prefix=16)
    assert torch.equal(logits(second, images(), rows), logits(first, images(), rows))


def test_wrong_options_are_refused_at_the_door(tokenizer: str) -> None:
    with pytest.raises(ValueError, match="needs tokenizer=FILE"):
        make(None)
    with pytest.raises(FileNotFoundError):
        make(str(Path(tokenizer).parent / "none.json"))
    with pytest.raises(ValueError, match="positions, the language model has 96"):
        make(tokenizer, max_tokens=90).generate(images())
    with pytest.raises(ValueError, match="needs one data sample for each"):
        make(tokenizer)(images(), samples(CAPTIONS[:2]), mode="loss")


def test_the_former_captioner_and_its_checkpoints_are_refused_in_one_line(tokenizer: str) -> None:
    former = dict(backbone=dict(type="sparc.ToyBackbone"), language_model=LANGUAGE_MODEL, grid=7)
    with pytest.raises(ValueError, match=r"^sparc\.Captioner and .* earlier version: .*mlp[^\n]*$"):
        MODELS.build(dict(type="sparc.Captioner", **former))
    model = make(tokenizer)
    theirs = {
        name.replace("bridge.net.net", "projector"): w for name, w in model.state_dict().items()
    }
    for read in (model.load_state_dict, lambda weights: misfits(model, weights)):
        with pytest.raises(ValueError, match="are of an earlier version: train again"):
            read(theirs)


# ------------------------------------------------------------------ data


def write_set(folder: Path, count: int = 4) -> Path:
    """Images of plain colours, and a COCO captions file with two captions each."""
    (folder / "images").mkdir()
    generator = torch.Generator().manual_seed(3)
    entries, annotations = [], []
    for i in range(count):
        pixels = torch.randint(256, (3, 40, 48), dtype=torch.uint8, generator=generator)
        write_png(pixels, str(folder / "images" / f"{i}.png"))
        entries.append({"id": i, "file_name": f"{i}.png"})
        for text in (CAPTIONS[i % 4], f"{CAPTIONS[i % 4]}, again"):
            annotations.append({"id": len(annotations), "image_id": i, "caption": text})
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": entries, "annotations": annotations}))
    return path


def open_set(folder: Path, **options: Any) -> CaptionDataset:
    config = dict(
        type="sparc.CaptionDataset",
        data_root=str(folder),
        ann_file="captions.json",
        data_prefix=dict(img="images"),
        size=SIZE,
    )
    return DATASETS.build({**config, **options})


def test_training_has_an_item_per_caption_and_evaluation_one_per_image(tmp_path: Path) -> None:
    write_set(tmp_path)
    train, test = open_set(tmp_path), open_set(tmp_path, test_mode=True)
    assert (len(train), len(test)) == (8, 4)
    assert [train[i]["data_samples"].caption for i in (2, 3)] == [
        CAPTIONS[1],
        CAPTIONS[1] + ", again",
    ]
    assert test[1]["data_samples"].references == [CAPTIONS[1], CAPTIONS[1] + ", again"]
    assert test[1]["data_samples"].image == "1.png"
    batch = pseudo_collate([test[0], test[1]])
    assert batch["inputs"][0].shape == (3, SIZE, SIZE)
    assert batch["inputs"][0].dtype == torch.uint8
    assert torch.equal(train[2]["inputs"], test[1]["inputs"])


def test_a_bad_image_is_replaced_in_training_and_an_error_in_evaluation(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    train, test = open_set(tmp_path), open_set(tmp_path, test_mode=True)
    item = train[2]["data_samples"]
    assert (item.image, item.caption) == ("2.png", CAPTIONS[2])
    assert (train.health.bad, train.health.seen) == (1, 2)
    assert train.health.reasons == {"not an image": 1}
    with pytest.raises(ValueError, match=r"1\.png: not an image"):
        test[1]


def test_a_folder_of_bad_images_stops_soon(tmp_path: Path) -> None:
    write_set(tmp_path, TRIES + 5)
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{TRIES} images in a row cannot be used"):
        open_set(tmp_path)[0]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_set(tmp_path)
    write_set(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no image .*0\.png"):
        open_set(tmp_path, data_prefix=dict(img="elsewhere"))


# ------------------------------------------------------------------ a Runner


def runner_config(folder: Path, tokenizer: str) -> Config:
    data = dict(
        type="sparc.CaptionDataset",
        data_root=str(folder),
        ann_file="captions.json",
        data_prefix=dict(img="images"),
        size=SIZE,
    )
    evaluator = dict(type="sparc.CaptionMetric", outfile_prefix=f"{folder}/out/")
    test = dict(
        batch_size=3,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=dict(data, test_mode=True),
    )
    return Config(
        dict(
            default_scope="sparc",
            work_dir=str(folder / "work"),
            model=model_config(tokenizer),
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=dict(type="InfiniteSampler", shuffle=True),
                dataset=data,
            ),
            val_dataloader=test,
            test_dataloader=test,
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=6, val_interval=6),
            val_cfg=dict(),
            test_cfg=dict(),
            val_evaluator=evaluator,
            test_evaluator=evaluator,
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=3e-3)),
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=6, by_epoch=False)),
            custom_hooks=[dict(type="sparc.CaptionerFilesHook")],
            log_level="WARNING",
            experiment_name=folder.name,
        )
    )


def test_the_work_dir_suffices_to_test_a_checkpoint(tokenizer: str, tmp_path: Path) -> None:
    write_set(tmp_path)
    own = tmp_path / "own"
    own.mkdir()
    own_tokenizer = Tokenizer.load(tokenizer).save(own)
    cfg = runner_config(tmp_path, str(own_tokenizer))
    runner = Runner.from_cfg(cfg)
    runner.train()
    written = json.loads((tmp_path / "out" / "captions.json").read_text())
    assert len(written) == 4 and len(written[0]["references"]) == 2

    own_tokenizer.unlink()  # what training read is gone
    (left,) = (tmp_path / "work").glob("*.py")
    again = Config.fromfile(left)
    again.load_from = str(tmp_path / "work" / "iter_6.pth")
    again.experiment_name += "-test"
    tester = Runner.from_cfg(again)
    found = tester.test()
    assert set(found) >= {"caption/CIDEr", "caption/BLEU-4"}
    assert json.loads((tmp_path / "out" / "captions.json").read_text()) == written
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, tester.model.state_dict()[name]), name


def test_frozen_weights_take_no_optimizer_memory(tokenizer: str, tmp_path: Path) -> None:
    write_set(tmp_path)
    runner = Runner.from_cfg(runner_config(tmp_path, tokenizer))
    runner.train()
    kept = runner.optim_wrapper.optimizer.state
    assert kept.keys() == {p for p in runner.model.parameters() if p.requires_grad}
