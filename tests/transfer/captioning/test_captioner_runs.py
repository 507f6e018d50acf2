"""The Flamingo captioner in a Runner: its data, its work dir, a resume, its cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.runner import Runner
from PIL import Image

from sparc_pretrain.data.shards import write_shards
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.registry import DATASETS
from tests.transfer.captioning.captioner_parts import CAPTIONS, FAMILIES, SIZE
from transfer.captioning.data import dataset as caption_files
from transfer.captioning.data.buckets import LengthBatchSampler
from transfer.captioning.language_model.loading import wrap


def write_set(folder: Path, count: int = 8) -> Path:
    """Noise images and a COCO captions file with two captions each."""
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    entries, annotations = [], []
    for i in range(count):
        pixels = generator.integers(256, size=(40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        entries.append({"id": i, "file_name": f"{i}.png"})
        for text in (CAPTIONS[i % 4], f"{CAPTIONS[i % 4]}, again {i}"):
            annotations.append({"id": len(annotations), "image_id": i, "caption": text})
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": entries, "annotations": annotations}))
    return path


def data(folder: Path, **options: Any) -> dict:
    common = dict(
        data_root=str(folder), ann_file="captions.json", data_prefix=dict(img="images"), size=SIZE
    )
    return {"type": "sparc.FewShotCaptionDataset", **common, **options}


# ------------------------------------------------------------------ data


@pytest.mark.parametrize("shots", [0, 4, 7])
def test_examples_are_others_and_the_same_every_time(tmp_path: Path, shots: int) -> None:
    write_set(tmp_path)
    dataset = DATASETS.build(data(tmp_path, shots=shots, test_mode=True))
    plain = DATASETS.build(data(tmp_path, type="sparc.CaptionDataset", test_mode=True))
    for index in range(len(dataset)):
        item, again = dataset[index], dataset[index]
        assert item["inputs"].shape == (shots + 1, 3, SIZE, SIZE)
        assert torch.equal(item["inputs"], again["inputs"])
        assert torch.equal(item["inputs"][-1], plain[index]["inputs"])
        captions = item["data_samples"].shots
        assert len(captions) == shots and captions == again["data_samples"].shots
        numbers = {text.rpartition(" ")[2] for text in captions if "again" in text}
        assert str(index) not in numbers  # never the image that is asked about
    assert item["data_samples"].references == plain[index]["data_samples"].references
    with pytest.raises(ValueError, match="has 8 images, 8 shots need more"):
        DATASETS.build(data(tmp_path, shots=8))


def test_examples_of_an_evaluation_come_from_the_training_set(tmp_path: Path) -> None:
    write_set(tmp_path / "val")
    path = write_set(tmp_path / "train")
    path.write_text(path.read_text().replace("again", "train"))
    source = dict(data_root=str(tmp_path / "train"), ann_file="captions.json")
    source["data_prefix"] = dict(img="images")
    dataset = DATASETS.build(data(tmp_path / "val", shots=6, source=source, test_mode=True))
    shots = [text for i in range(8) for text in dataset[i]["data_samples"].shots]
    assert any("train" in text for text in shots) and not any("again" in text for text in shots)


def test_bad_captions_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(caption_files, "print_log", lambda text, logger: told.append(text))
    path = write_set(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0]["caption"] = "  \n"
    content["annotations"][2]["caption"] = "dog " * 5000
    content["images"].append({"id": 99, "file_name": "99.png"})  # an image without a caption
    path.write_text(json.dumps(content))
    assert len(DATASETS.build(data(tmp_path))) == 14
    assert told == [
        f"{path}: 1 images have no caption, left out",
        f"{path}: 1 captions have over 100 words, left out",
    ]
    content["annotations"][3]["image_id"] = 1234  # a caption without its image
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"annotations\[3\] is of the unknown image 1234"):
        DATASETS.build(data(tmp_path))
    with pytest.raises(ValueError, match="every caption has more than 1 words"):
        write_set(tmp_path / "other")
        DATASETS.build(data(tmp_path / "other", max_words=1))


def test_karpathy_flickr_and_nocaps_files_are_read_alike(tmp_path: Path) -> None:
    write_set(tmp_path, 4)
    karpathy = [
        dict(filename=f"{i}.png", split="train" if i else "test", sentences=[dict(raw=CAPTIONS[i])])
        for i in range(4)
    ]
    (tmp_path / "karpathy.json").write_text(json.dumps({"images": karpathy}))
    flickr = "".join(f"{i}.png#0\t{CAPTIONS[i]}\n" for i in range(4))
    (tmp_path / "token.txt").write_text(flickr)
    nocaps = dict(
        images=[dict(id=i, file_name=f"{i}.png", domain="out-domain") for i in range(4)],
        annotations=[dict(id=i, image_id=i, caption=CAPTIONS[i]) for i in range(4)],
        licenses=[],
    )
    (tmp_path / "nocaps_val_4500_captions.json").write_text(json.dumps(nocaps))
    for name, split, count in (
        ("karpathy.json", "train", 3),
        ("token.txt", None, 4),
        ("nocaps_val_4500_captions.json", None, 4),
    ):
        dataset = DATASETS.build(data(tmp_path, ann_file=name, split=split))
        assert len(dataset) == count
        assert dataset[count - 1]["data_samples"].caption == CAPTIONS[3]


def test_captions_come_from_pretraining_shards_and_bad_samples_are_replaced(tmp_path: Path) -> None:
    write_set(tmp_path)
    good = (tmp_path / "images" / "0.png").read_bytes()
    pairs = [
        ("a", good, "png", ["a red square"]),
        ("b", b"no image", "png", ["two dogs"]),
        ("c", good, "png", ["dog " * 200]),
        ("d", good, "png", ["the sky", "the blue sky"]),
    ]
    write_shards(pairs, tmp_path / "shards")
    dataset = DATASETS.build(
        dict(type="sparc.ShardCaptionDataset", shards=str(tmp_path / "shards"), size=SIZE)
    )
    assert len(dataset) == 4
    captions = [dataset[i]["data_samples"].caption for i in range(4)]
    assert captions[0] == "a red square" and set(captions[1:]) <= {"the sky", "the blue sky"}
    assert dataset.health.reasons["caption of more than 100 words"] == 2
    assert dataset.health.reasons["not an image"] == 1
    assert pseudo_collate([dataset[0], dataset[3]])["inputs"][0].shape == (3, SIZE, SIZE)


class Lengths:
    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)


def test_batches_hold_like_lengths_and_every_caption_once() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, 203).tolist()
    sampler = DefaultSampler(Lengths(lengths), shuffle=True, seed=1)
    batches = list(LengthBatchSampler(sampler, 8, window=10, seed=2))
    assert sorted(i for batch in batches for i in batch) == list(range(203))
    assert len(batches) == len(LengthBatchSampler(sampler, 8)) == 26
    assert batches == list(LengthBatchSampler(sampler, 8, window=10, seed=2))

    def padding(groups: list[list[int]]) -> int:
        return sum(max(lengths[i] for i in g) * len(g) - sum(lengths[i] for i in g) for g in groups)

    order = list(sampler)
    plain = [order[n : n + 8] for n in range(0, 203, 8)]
    assert padding(batches) < 0.35 * padding(plain)
    means = [np.mean([lengths[i] for i in batch]) for batch in batches[:10]]
    assert means != sorted(means)  # short and long ones alternate
    whole = LengthBatchSampler(sampler, 8, drop_last=True)
    assert len(list(whole)) == len(whole) == 25
    with pytest.raises(ValueError, match="has no lengths"):
        LengthBatchSampler(DefaultSampler([1, 2, 3]), 2)


# ------------------------------------------------------------------ a Runner


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder as tools/pretrain_lm.py leaves it, with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("lm")
    tokenizer = Tokenizer.train(CAPTIONS, 300)
    special = dict(bos_token_id=1, eos_token_id=2, vocab_size=tokenizer.vocab_size)
    config = AutoConfig.for_model(**FAMILIES["gpt2"], **special)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    wrap(tokenizer).save_pretrained(folder)
    return str(folder)


def runner_config(folder: Path, language_model: str, steps: int, **options: Any) -> Config:
    test = dict(
        batch_size=3,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=data(folder, test_mode=True, shots=2, ann_file="captions.json"),
    )
    evaluator = dict(type="sparc.CaptionMetric", outfile_prefix=f"{folder}/out/", k_precision=True)
    base = dict(
        default_scope="sparc",
        task="captioning",
        work_dir=str(folder / "work"),
        model=dict(
            type="sparc.FlamingoCaptioner",
            backbone=dict(type="sparc.ToyBackbone"),
            language_model=dict(pretrained=language_model),
            bridge=dict(latents=4, depth=1, every=1, heads=4),
            max_tokens=16,
            data_preprocessor=dict(type="sparc.ImagesPreprocessor", mean=[127.5], std=[60.0]),
        ),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            sampler=dict(type="InfiniteSampler", shuffle=True, seed=3),
            batch_sampler=dict(type="sparc.LengthBatchSampler", window=2),
            dataset=data(folder, shots=1),
        ),
        val_dataloader=test,
        test_dataloader=test,
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=steps, val_interval=6),
        val_cfg=dict(),
        test_cfg=dict(),
        val_evaluator=evaluator,
        test_evaluator=evaluator,
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=3e-3)),
        default_hooks=dict(
            checkpoint=dict(type="sparc.CheckpointHook", interval=3, by_epoch=False)
        ),
        custom_hooks=[
            dict(type="sparc.RandomStateHook"),
            dict(type="sparc.CaptionerFilesHook"),
            dict(type="sparc.CostHook"),
        ],
        randomness=dict(seed=0),
        log_level="INFO",
    )
    base["experiment_name"] = f"{folder.name}-{steps}-{len(options)}"
    return Config({**base, **options})


def trained_state(runner: Runner) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in runner.model.state_dict().items()}


def test_a_resumed_run_is_the_run_and_the_work_dir_suffices_for_a_test(
    language_model: str, tmp_path: Path
) -> None:
    write_set(tmp_path / "a")
    whole = Runner.from_cfg(runner_config(tmp_path / "a", language_model, 6))
    whole.train()
    frozen = ("backbone.", "language_model.", "identity.")
    names = {n for n, p in whole.model.named_parameters() if p.requires_grad}
    assert names and not any(name.startswith(frozen) for name in names)
    assert set(whole.optim_wrapper.optimizer.state) == {
        p for p in whole.model.parameters() if p.requires_grad
    }
    log = next((tmp_path / "a" / "work").rglob("*.log")).read_text()
    assert "training: 24 sequences" in log and "evaluation: 8 sequences" in log
    written = json.loads((tmp_path / "a" / "out" / "captions.json").read_text())
    assert len(written) == 8 and "K-Precision-na" in written[0]["scores"]

    write_set(tmp_path / "b")
    Runner.from_cfg(runner_config(tmp_path / "b", language_model, 3)).train()
    resumed = Runner.from_cfg(
        runner_config(
            tmp_path / "b", language_model, 6, resume=True,
            load_from=str(tmp_path / "b" / "work" / "iter_3.pth"),
        )
    )  # fmt: skip
    resumed.train()
    for name, value in trained_state(resumed).items():
        assert torch.equal(value, whole.model.state_dict()[name]), name

    (left,) = (tmp_path / "a" / "work").glob("*.py")  # another place, no language model folder
    again = Config.fromfile(left)
    assert again.model.language_model.architecture == f"{tmp_path}/a/work/language_model"
    again.load_from, again.experiment_name = str(tmp_path / "a" / "work" / "iter_6.pth"), "again"
    tester = Runner.from_cfg(again)
    found = tester.test()
    assert {"caption/CIDEr", "caption/K-Precision"} <= set(found)
    assert json.loads((tmp_path / "a" / "out" / "captions.json").read_text()) == written

    again.load_from, again.experiment_name = None, "without"
    with pytest.raises(ValueError, match="architecture brings no weights"):
        Runner.from_cfg(again).train()


VIT = dict(
    type="sparc.SparcViT",
    vision=dict(
        arch="vit_tiny_patch16_224",
        img_size=SIZE,
        overrides=dict(embed_dim=24, depth=2, num_heads=2),
    ),
    frozen=True,
)


def train_on(folder: Path, language_model: str, hooks: list[dict], **backbone: Any) -> Runner:
    """A trained Runner; validation is at the end, with two examples before every image."""
    config = runner_config(folder, language_model, 6)
    config.model.backbone = {**VIT, **backbone}
    config.custom_hooks += hooks
    config.experiment_name = f"{folder.parent.name}-{folder.name}-cache"
    torch.manual_seed(0)
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def test_a_captioner_on_cached_features_is_the_captioner_without(
    language_model: str, tmp_path: Path
) -> None:
    hook = dict(type="sparc.CachedFeaturesHook", folder=str(tmp_path / "features"))
    runs = {}
    for name, hooks in (("plain", []), ("cold", [hook]), ("warm", [hook])):
        write_set(tmp_path / name)
        runs[name] = train_on(tmp_path / name, language_model, hooks)
    states = {name: trained_state(runner) for name, runner in runs.items()}
    for name, value in states["plain"].items():
        assert torch.equal(states["cold"][name], states["warm"][name]), name
        torch.testing.assert_close(
            states["cold"][name].float(), value.float(), rtol=1e-2, atol=2e-3, msg=name
        )
    written = {n: json.loads((tmp_path / n / "out/captions.json").read_text()) for n in runs}
    said = {name: [row["caption"] for row in rows] for name, rows in written.items()}
    assert said["plain"] == said["cold"] == said["warm"] and any(said["plain"])
    assert len(list((tmp_path / "features").rglob("*.npy"))) == 8
    log = next((tmp_path / "warm/work").rglob("*.log")).read_text()
    # 6 steps of 4 sequences of 2 images, then 8 of 3 images: all of them had been stored
    assert "cached features: 0 images computed, 72 read" in log


def test_a_captioner_is_cached_only_on_a_frozen_backbone(
    language_model: str, tmp_path: Path
) -> None:
    write_set(tmp_path / "a")
    hook = dict(type="sparc.CachedFeaturesHook", folder=str(tmp_path / "features"))
    with pytest.raises(ValueError, match=r"set model\.backbone\.frozen=True"):
        train_on(tmp_path / "a", language_model, [hook], frozen=False)
