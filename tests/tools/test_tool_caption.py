"""From sentences to a language model, to a captioner, to the caption of a photo: the tools."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from PIL import Image
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.report.records import gather
from tests.commands import ROOT, call, refusal
from tests.transfer.captioning.captioner_parts import CAPTIONS
from transfer.captioning.language_model import sentences
from transfer.captioning.language_model import training as lm
from transfer.captioning.model import word_attention
from transfer.captioning.model.word_attention import latent_weights, patch_weights

SMALL = ["--width", "32", "--layers", "2", "--heads", "2", "--vocab", "300", "--block", "24"]
SMALL += ["--positions", "128", "--batch", "4"]


def write_images(folder: Path, count: int = 6) -> Path:
    """Noise and COCO captions."""
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(count):
        pixels = generator.integers(256, size=(40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.jpg")
    content = dict(
        images=[dict(id=i, file_name=f"{i}.jpg") for i in range(count)],
        annotations=[dict(id=i, image_id=i, caption=CAPTIONS[i % 4]) for i in range(count)],
    )
    path = folder / "captions.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioning")
    write_images(folder / "set")
    lines = [f"{text} {n}" for text in CAPTIONS for n in range(12)]
    (folder / "sentences.txt").write_text("\n".join(lines) + "\n\n")
    return folder


@pytest.fixture(scope="module")
def language_model(place: Path) -> Path:
    """What the tool makes of sentences and of a caption file."""
    words = [place / "sentences.txt", place / "set" / "captions.json", "--out", place / "lm"]
    code, said = call("pretrain_lm", *words, "--steps", "30", *SMALL)
    assert code == 0, said
    return place / "lm"


@pytest.fixture(scope="module")
def work(place: Path, language_model: Path) -> Path:
    """The quickstart's captioner, tiny, trained for two steps with the tool."""
    where = []
    for split in ("train", "val", "test"):
        data = f"{split}_dataloader.dataset"
        where += [f"{data}.data_root={place}/set/", f"{data}.ann_file=captions.json"]
        where += [f"{data}.data_prefix.img=images", f"{data}.size=32"]
        where.append(f"{split}_dataloader.batch_size=3")
        if split != "train":
            where += [f"{data}.source.data_root={place}/set/", f"{data}.shots=2"]
            where += [f"{data}.source.ann_file=captions.json"]
            where += [f"{data}.source.data_prefix.img=images"]
    vision = [f"depth={1}", "embed_dim=24", "num_heads=2", "patch_size=8"]
    where += [f"model.backbone.vision.overrides.{option}" for option in vision]
    where += ["model.backbone.vision.width=24", "model.backbone.vision.img_size=32"]
    where += ["model.backbone.patch=8", f"model.language_model.pretrained={language_model}"]
    where += ["model.bridge.latents=3", "model.bridge.depth=1", "model.bridge.heads=2"]
    for name in ("val_evaluator", "test_evaluator"):
        where += [f"{name}.chair=None", f"{name}.scenes=False"]
    where += ["model.max_tokens=12", "train_cfg.max_iters=2", "train_cfg.val_interval=2"]
    where += ["default_hooks.checkpoint.interval=2", f"experiment_name={place.name}"]
    config = ROOT / "configs" / "quickstart" / "caption_flamingo.py"
    code, said = call("train", config, "--work-dir", place / "work", "--cfg-options", *where)
    assert code == 0, said
    return place / "work"


# ------------------------------------------------------------------ the language model


def test_the_folder_is_one_that_transformers_reads(language_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(language_model)
    words = AutoTokenizer.from_pretrained(language_model)
    assert words.decode(words("a red square")["input_ids"], skip_special_tokens=True).strip() == (
        "a red square"
    )
    assert model.config.vocab_size == len(words) and words.pad_token_id is not None
    record = json.loads((language_model / "training.json").read_text())
    assert record["steps"] == 30 and record["perplexity"] < 0.9 * len(words)
    leftovers = [p.name for p in language_model.parent.glob("lm*") if p != language_model]
    assert leftovers == []


def plan(**options) -> lm.Plan:
    model = dict(model_type="gpt2", n_embd=16, n_layer=1, n_head=2, n_positions=32)
    return lm.Plan(model=model, **{**dict(steps=12, batch=3, block=16, warmup=2), **options})


def test_a_killed_training_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer.train(CAPTIONS, 280)
    blocks = sentences.pack(CAPTIONS * 5, tokenizer, 16)
    whole, _ = lm.train(plan(), tokenizer, blocks, blocks[:2], tmp_path / "a", print)
    batch_of = lm.batch_of

    def killed(blocks_NT: torch.Tensor, of: lm.Plan, step: int) -> torch.Tensor:
        if step == 7:
            raise KeyboardInterrupt
        return batch_of(blocks_NT, of, step)

    monkeypatch.setattr(lm, "batch_of", killed)
    rest = (plan(), tokenizer, blocks, blocks[:2], tmp_path / "b", print)
    with pytest.raises(KeyboardInterrupt):
        lm.train(*rest, save_seconds=0)
    monkeypatch.undo()
    model, record = lm.train(*rest, resume=True)
    assert record["steps"] == 12
    for name, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    other = dataclasses.replace(plan(), lr=5e-4)
    with pytest.raises(ValueError, match=r"state\.pth is of another plan or other text"):
        lm.train(other, *rest[1:], resume=True)


def test_every_epoch_has_every_block_once_and_time_ends_a_training(tmp_path: Path) -> None:
    blocks = torch.arange(7)[:, None]
    seen = torch.cat([lm.batch_of(blocks, plan(), step) for step in range(7)])[:, 0].tolist()
    assert [sorted(seen[n : n + 7]) for n in (0, 7, 14)] == [list(range(7))] * 3
    assert seen[:7] != seen[7:14]
    rates = [lm.learning_rate(plan(warmup=3), step, 0.0) for step in range(12)]
    assert rates[0] < rates[1] < rates[2] and rates[3:] == sorted(rates[3:], reverse=True)
    assert lm.learning_rate(plan(minutes=2.0), 5, 2.0) == pytest.approx(0.1 * plan().lr)
    tokenizer = Tokenizer.train(CAPTIONS, 280)
    packed = sentences.pack(CAPTIONS * 5, tokenizer, 16)
    short = plan(steps=10**9, minutes=1e-9)
    _, record = lm.train(short, tokenizer, packed, packed[:2], tmp_path, print)
    assert record["steps"] == 1


def test_sentences_are_packed_with_their_begin_and_end() -> None:
    tokenizer = Tokenizer.train(CAPTIONS, 280)
    blocks = sentences.pack(["the sky", "a dog"], tokenizer, 8)
    ids = [*tokenizer.encode("the sky").ids, *tokenizer.encode("a dog").ids]
    flat = blocks.flatten().tolist()
    assert flat[: len(ids)] == ids and flat[len(ids) :] == ids[: len(flat) - len(ids)]
    assert sentences.pack(["the sky"], tokenizer, 64).shape == (1, 64)  # shorter than a block


def test_what_is_held_out_is_never_trained_on_and_no_image_is_on_both_sides(tmp_path: Path) -> None:
    texts = [["A dog .", "a cat"], ["a cat", "the sky"], ["two men"]]
    kept = sentences.without(texts, [["a DOG", "Two men."]])
    assert kept == [["a cat"], ["a cat", "the sky"]]
    groups = [[f"image {n} text {k}" for k in range(5)] + ["a dog"] for n in range(40)]
    train, held = sentences.split(groups, 0.1, seed=0)
    assert len(held) == 4 * 5 + 1 and len(train) == 36 * 5  # "a dog" is held out with them
    images = [{text.split()[1] for text in side if text != "a dog"} for side in (train, held)]
    assert not images[0] & images[1] and len(images[1]) == 4
    (tmp_path / "a.tsv").write_text("7\t0\tA dog .\n8\t1\tThe sky .\n7\t1\tIt runs .\n")
    (tmp_path / "b.tsv").write_text("8.jpg#0\tA cloud\n")
    (tmp_path / "c.txt").write_text("one\n\ntwo\n")
    found = sentences.read_groups([tmp_path / name for name in ("a.tsv", "b.tsv", "c.txt")])
    assert found == [["A dog .", "It runs ."], ["The sky .", "A cloud"], ["one"], ["two"]]


def test_wrong_requests_for_a_language_model_end_in_one_line(place: Path, tmp_path: Path) -> None:
    text, out = place / "sentences.txt", tmp_path / "lm"
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    for words, message in (
        ((tmp_path / "none.txt", "--out", out), "no text file"),
        ((tmp_path / "empty.txt", "--out", out), "has no sentence"),
        ((tmp_path / "picture.png", "--out", out), "unknown kind of text"),
        ((text, "--out", place), "exists already"),
        ((text, "--out", out, "--heads", "7"), "not a multiple of --heads 7"),
        ((text, "--out", out, "--heads", "0"), "heads are at least 1"),
        ((text, "--out", out, "--max-minutes", "0"), "--max-minutes must be above 0"),
        ((text, "--out", out, "--block", "900"), "block from 2 to positions"),
    ):
        assert message in refusal(call("pretrain_lm", *words))
    assert not out.exists()


# ------------------------------------------------------------------ the captioner


def test_testing_the_checkpoint_repeats_the_validation(work: Path, place: Path) -> None:
    config = work / "caption_flamingo.py"
    words = [config, work / "iter_2.pth", "--cfg-options", f"experiment_name={place.name}-test"]
    validated = (work / "captions.json").stat().st_mtime_ns
    code, said = call("test", *words)
    assert code == 0, said
    first, second = (json.loads((p / "metrics.json").read_text()) for p in (work, work / "test"))
    assert first["metrics"] == second["metrics"]
    assert {"caption/CIDEr_low", "caption/K-Precision-na"} <= set(first["metrics"])
    # its captions lie beside it, and those of the validation are left alone
    assert (work / "captions.json").stat().st_mtime_ns == validated
    assert (work / "test/captions.json").read_text() == (work / "captions.json").read_text()
    # one run, of the config that was trained, is not two
    assert first["config"] == second["config"] == "configs/quickstart/caption_flamingo.py"
    assert [one.file for one in gather([work]).evaluations] == [work / "test/metrics.json"]


def test_a_work_dir_that_was_moved_is_whole(work: Path, place: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(work, tmp_path / "elsewhere")
    aside = work / "language_model"
    aside.rename(work / "gone")
    try:
        photo = place / "set" / "images" / "0.jpg"
        code, said = call("caption", moved, photo, "--out-dir", tmp_path / "said")
        assert code == 0, said
        options = ["--cfg-options", f"experiment_name={tmp_path.name}-moved"]
        code, said = call("test", moved / "caption_flamingo.py", moved / "iter_2.pth", *options)
        assert code == 0, said
    finally:
        (work / "gone").rename(aside)
    assert (moved / "test/captions.json").read_text() == (work / "captions.json").read_text()


def test_a_hub_language_model_with_one_special_token_is_trained_as_the_config_says(
    place: Path, tmp_path: Path
) -> None:
    """GPT-2's folder: begin and end are one token, there is no padding, and the config has keys of
    older versions.
    """
    inner = ByteLevelBPETokenizer()
    inner.train_from_iterator(CAPTIONS, 300, special_tokens=["<|endoftext|>"])
    words = PreTrainedTokenizerFast(
        tokenizer_object=inner._tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    config = GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=len(words), n_ctx=1024, task_specific_params={},
        bos_token_id=words.eos_token_id, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    words.save_pretrained(tmp_path / "gpt2")
    options = ["model.backbone.vision.overrides.depth=1", "model.bridge.grid=2"]
    options += [f"model.language_model.pretrained={tmp_path}/gpt2", "model.max_tokens=12"]
    for split in ("train", "val", "test"):
        data = f"{split}_dataloader.dataset"
        options += [f"{data}.data_root={place}/set/", f"{data}.ann_file=captions.json"]
        options += [f"{data}.data_prefix.img=images", f"{split}_dataloader.num_workers=0"]
        options.append(f"{split}_dataloader.batch_size=3")
    options += ["train_cfg.max_iters=1", "train_cfg.val_interval=1"]
    options += ["default_hooks.checkpoint.interval=1", f"experiment_name={tmp_path.name}"]
    config_file = ROOT / "configs/caption/sparc_coco.py"
    work = tmp_path / "work"
    code, said = call("train", config_file, "--work-dir", work, "--cfg-options", *options)
    assert code == 0, said
    state = torch.load(work / "iter_1.pth", weights_only=False)["state_dict"]
    weight = "language_model.transformer.wte.weight"
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2").state_dict()
    assert not torch.equal(state[weight], before[weight.removeprefix("language_model.")])
    again = ["--cfg-options", f"experiment_name={tmp_path.name}-test"]
    code, said = call("test", work / "sparc_coco.py", work / "iter_1.pth", *again)
    assert code == 0, said
    assert (work / "test/captions.json").read_text() == (work / "captions.json").read_text()
    again = ["--force", "--cfg-options", f"experiment_name={tmp_path.name}-again"]
    said = refusal(call("train", work / "sparc_coco.py", "--work-dir", tmp_path / "b", *again))
    assert "language_model.architecture brings no weights" in said


@HOOKS.register_module(force=True)
class ResidentHook(Hook):
    """Notes the resident memory (bytes) of this process while a test runs."""

    seen: ClassVar[list[int]] = []

    def after_test_iter(self, runner: Runner, *args, **kwargs) -> None:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.seen.append(pages * os.sysconf("SC_PAGE_SIZE"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_two_thousand_images_are_captioned_in_flat_memory(work: Path, tmp_path: Path) -> None:
    count = 2000
    write_images(tmp_path / "set")
    for i in range(6, count):
        os.link(tmp_path / "set/images" / f"{i % 6}.jpg", tmp_path / "set/images" / f"{i}.jpg")
    content = dict(
        images=[dict(id=i, file_name=f"{i}.jpg") for i in range(count)],
        annotations=[dict(id=i, image_id=i, caption=CAPTIONS[i % 4]) for i in range(count)],
    )
    (tmp_path / "set/captions.json").write_text(json.dumps(content))
    data = "test_dataloader.dataset"
    options = [f"{data}.data_root={tmp_path}/set/", f"{data}.shots=0", "model.max_tokens=2"]
    options += ["test_dataloader.batch_size=50", "test_evaluator.resamples=0"]
    options += [f"experiment_name={tmp_path.name}", "custom_hooks.0.type=ResidentHook"]
    ResidentHook.seen.clear()
    words = [work / "caption_flamingo.py", work / "iter_2.pth", "--work-dir", tmp_path / "tested"]
    code, said = call("test", *words, "--cfg-options", *options)
    assert code == 0, said
    assert len(ResidentHook.seen) == count / 50
    early, late = ResidentHook.seen[count // 250], ResidentHook.seen[-1]
    # what stays are the captions and their references, not the 2,000 images: 6 MB as bytes
    assert late - early < 3.2e6, (
        f"{early / 1e6:.1f} MB after 450 images, {late / 1e6:.1f} at the end"
    )


def test_a_photo_is_captioned_and_explained(
    work: Path, place: Path, capsys: pytest.CaptureFixture
) -> None:
    photos = sorted((place / "set" / "images").glob("*.jpg"))[:3]
    code, said = call("caption", work, *photos, "--explain", "--out-dir", place / "said")
    assert code == 0, said
    lines = capsys.readouterr().out.strip().splitlines()
    rows = json.loads((place / "said" / "captions.json").read_text())
    assert [f"{row['image']}\t{row['caption']}".strip() for row in rows] == [
        line.strip() for line in lines[-3:]
    ]
    assert [Path(row["image"]) for row in rows] == photos
    for row in rows:
        assert row["words"] == row["caption"].split()
        with Image.open(place / "said" / row["picture"]) as sheet:
            panels = min(5, len(row["words"]) + 1)
            assert sheet.width == 224 * panels
    code, said = call("caption", work / "iter_2.pth", photos[0])
    assert code == 0, said


def test_wrong_requests_for_a_caption_end_in_one_line(work: Path, place: Path) -> None:
    photo = place / "set" / "images" / "0.jpg"
    (place / "broken.jpg").write_bytes(b"no image")
    (place / "empty").mkdir()
    for words, message in (
        ((work, place / "none.jpg"), "no file"),
        ((work, place / "broken.jpg"), "broken.jpg: not an image"),
        ((place / "nowhere", photo), "no work dir or checkpoint"),
        ((place / "empty", photo), "no whole checkpoint"),
        ((work, place / "set"), "set is a folder: give its images"),
        ((work, photo, photo, place / "broken.jpg", "--out-dir", place / "b"), "broken.jpg: not"),
        ((work, photo, "--out-dir", work), "holds an evaluation and its captions"),
        ((work, photo, "--explain"), "say where with --out-dir"),
        ((work, photo, "--config", ROOT / "configs" / "quickstart" / "det.py"), "of a captioner"),
    ):
        assert message in refusal(call("caption", *words))


def test_the_picture_is_red_where_a_word_looked() -> None:
    looked = torch.zeros(4, 4)
    looked[3, 0] = 0.2  # below, at the left
    found = word_attention.Explanation("dog", ["dog"], looked[None])
    grey = Image.new("RGB", (100, 100), (90, 90, 90))
    sheet = np.asarray(word_attention.draw(grey, found)).astype(int)
    panel = sheet[-word_attention.PANEL :, word_attention.PANEL :]
    red = panel[..., 0] - panel[..., 1]
    assert red[-10, 10] > 100 and red[10, -10] == 0
    assert (
        sheet[-word_attention.PANEL :, : word_attention.PANEL] == 90
    ).all()  # the picture as it is


def test_where_a_word_looked_is_latents_times_patches() -> None:
    taken = torch.zeros(1, 2, 4 + 2)  # latent 0 looks at patch 3, latent 1 at patch 1 and itself
    taken[0, 0, 3], taken[0, 1, 1], taken[0, 1, 5] = 1.0, 0.5, 0.5
    patches = patch_weights([taken, taken], 4)
    assert patches[0].tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    first = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    closed = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    latents = latent_weights([first, closed], torch.tensor([0.5, 0.0]))
    looked = latents[0] @ patches[0]  # the block with a closed gate says nothing
    assert looked.argmax(-1).tolist() == [3, 1]
    torch.testing.assert_close(looked.sum(-1), torch.ones(2))
