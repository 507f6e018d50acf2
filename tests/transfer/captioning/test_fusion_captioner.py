"""Captions by a run's own fusion encoder and head of words."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from mmengine.structures import BaseDataElement
from PIL import Image
from torch import Tensor

from sparc_pretrain import run_folder
from sparc_pretrain.registry import DATASETS, MODELS
from sparc_pretrain.types import ImageFeatures, TextFeatures
from sparc_pretrain.zeroshot import encode
from tests.commands import ROOT, call, refusal
from tests.models import pretrainer, saved
from transfer.captioning.model.bridges import build_bridge
from transfer.captioning.model.fused import FusionCaptioner

KINDS = ("Xvlm", "Uniter", "Oscar", "Kaleido")
TEXTS = ["a red dog", "two green cats on it", "the sky", "red and green"]
FUSION = dict(kind="fusion")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("runs")
    layers = {kind: int(kind == "Xvlm") for kind in KINDS}
    return {kind: saved(kind, place / kind, TEXTS, layers[kind]) for kind in KINDS}


def make(run: Path | None, **options) -> FusionCaptioner:
    config = dict(type="sparc.Captioner", run=run and str(run), bridge=FUSION, **options)
    return MODELS.build(config).eval()


def pictures(count: int = 4) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return list(torch.randint(0, 255, (count, 3, 32, 32), generator=g).to(torch.uint8))


def samples(captions: list[str]) -> list[BaseDataElement]:
    return [BaseDataElement(metainfo=dict(caption=text)) for text in captions]


def fit(model: FusionCaptioner, steps: int, until: float = 0.0) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = model(pictures(), samples(TEXTS), "loss")["caption_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if loss < until:
            break
    return losses


@torch.no_grad()
def said(model: FusionCaptioner, shown: list[Tensor], ids: Tensor) -> Tensor:
    """[B,T,V]."""
    write, real = model.objective.writer(model.images(shown)), torch.ones_like(ids).bool()
    return model.logits(model.states(write, ids, real, torch.arange(len(ids))))


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_sees_the_image_and_the_words_before_it(kind, runs):
    model, shown = make(runs[kind]), pictures()
    ids = torch.randint(3, 250, (4, 9), generator=torch.Generator().manual_seed(1))
    whole = said(model, shown, ids)
    changed = ids.clone()
    changed[:, 5:] = changed[:, 5:] % 200 + 7
    after = said(model, shown, changed)
    torch.testing.assert_close(after[:, :5], whole[:, :5])
    assert (after[:, 5:] - whole[:, 5:]).abs().amax(dim=-1).min() > 1e-4
    torch.testing.assert_close(said(model, shown, ids[:, :6]), whole[:, :6])
    assert (said(model, shown[::-1], ids) - whole).abs().amax(dim=-1).min() > 1e-5


@pytest.mark.parametrize("kind", KINDS[1:])
def test_no_region_or_patch_sees_a_word(kind, runs):
    model = make(runs[kind])
    tokens, real = model.objective.image_tokens(model.images(pictures()))
    texts = [model.encoder.text(ids, ids > 0) for ids in (torch.ones(4, 6).long(),) * 2]
    texts[1] = texts[1] + 1
    for causal in (True, False):
        one, other = (
            model.objective.fusion(text, torch.ones(4, 6).bool(), tokens, real, causal=causal)[1]
            for text in texts
        )
        assert torch.equal(one, other) is causal


@pytest.mark.parametrize("kind", KINDS)
def test_where_the_masks_agree_it_says_what_the_runs_own_head_says(kind, tmp_path):
    """One layer of fusion over bare words: the last of them sees the same in both."""
    model = make(saved(kind, tmp_path / "run", TEXTS, layers=0))
    del model.objective.fusion.blocks[1:]
    shown, words = pictures(), model.encoder.tokenizer
    ids, mask, special = model.encoder.tokenize(["two green cats on"] * 4)
    ids[:, -1] = words.mask_id  # in the place of the end: the word to guess
    image, text = model.images(shown), model.encoder.text_features(ids, mask, special)
    if kind == "Xvlm":
        every = torch.ones(image.patch_states.shape[:2]).bool()
        own = model.objective.fusion(text.token_states, mask, image.patch_states, every)[0]
    else:
        given = model.objective.image_tokens(image)
        own = model.objective.fuse(text.token_states, mask, *given)[0]
    own = model.objective.word_logits(own, model.encoder.text.word_table)
    found = said(model, shown, ids)
    torch.testing.assert_close(found[:, -1], own[:, -1])
    assert (found[:, :-1] - own[:, :-1]).abs().amax(dim=-1).min() > 1e-5
    alone = said(model, shown, ids[:, :1])  # the begin token by itself
    first = TextFeatures(None, None, mask[:, :1], special[:, :1], text.token_states[:, :1])
    state = model.objective.begin(ImageFeatures(None, None, image.patch_states), first)
    logits = model.objective.word_logits(state, model.encoder.text.word_table)
    torch.testing.assert_close(alone[:, 0], logits)


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_learnt_by_heart_each_of_its_image(kind, runs, tmp_path):
    model = make(runs[kind], generation=dict(num_beams=3))
    model.train()
    losses = fit(model, 250, until=0.05)
    assert losses[0] > 4 and losses[-1] < 0.05
    for part in ("encoder.vision", "encoder.text", "objective.fusion"):
        grads = [p.grad for p in model.get_submodule(part).parameters()]
        assert any(g is not None and g.abs().sum() > 0 for g in grads), part
    model.eval()
    assert model.generate(pictures()) == TEXTS
    assert model.generate(pictures()[::-1]) == TEXTS[::-1]
    told = model(pictures(), samples(TEXTS), "predict")
    assert [one.prediction for one in told] == TEXTS
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    again = make(runs[kind], scratch=True)
    assert again.generate(pictures()) != TEXTS
    again.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    assert again.generate(pictures()) == TEXTS


@pytest.mark.parametrize("kind", ["Xvlm", "Oscar"])
def test_search_takes_the_likeliest_words_and_is_the_same_one_by_one(kind, runs):
    model = make(runs[kind], max_tokens=6)
    fit(model, 15)  # not yet by heart
    words, shown = model.encoder.tokenizer, pictures()
    greedy = []
    for image in shown:
        ids = torch.tensor([[words.bos_id]])
        for _ in range(6):
            scores = said(model, [image], ids)[0, -1]
            scores[[words.bos_id, words.mask_id]] = -torch.inf
            ids = torch.cat([ids, scores.argmax()[None, None]], dim=1)
            if ids[0, -1] == words.eos_id:
                break
        greedy.append(words.decode(ids[0].tolist()))
    assert model.generate(shown) == greedy
    beams = make(runs[kind], max_tokens=6, generation=dict(num_beams=3))
    beams.load_state_dict(model.state_dict())
    together = beams.generate(shown)
    assert [beams.generate([image])[0] for image in shown] == together == beams.generate(shown)


def test_a_caption_that_is_cut_does_not_end_and_a_prompt_is_not_scored(runs):
    model = make(runs["Xvlm"], max_tokens=4, prompt="red")
    words = model.encoder.tokenizer
    prompt = words.encode("red").ids[1:-1]
    ids, real, scored = model.rows(["the sky", "green cats and dogs on it"])
    for row, text in enumerate(["the sky", "green cats and dogs on it"]):
        own = [*words.encode(text, 40).ids[1:-1], words.eos_id][:4]
        assert ids[row][real[row]].tolist() == [words.bos_id, *prompt, *own]
        assert ids[row][scored[row]].tolist() == own
    assert words.eos_id not in ids[1].tolist()
    losses = model(pictures(2), samples(["the sky", "green cats and dogs on it"]), "loss")
    table = said(model, pictures(2), ids[:, :-1]).log_softmax(dim=-1)
    picked = table.gather(2, ids[:, 1:, None])[..., 0][scored[:, 1:]]
    assert losses["caption_loss"].item() == pytest.approx(-picked.mean().item(), rel=1e-5)


def changed(run: Path, folder: Path, **objective) -> Path:
    """The run with another objective config."""
    opened = run_folder.open_run(run)
    config = copy.deepcopy(opened.config)
    config["objective"].update(objective)
    words = (opened.path / run_folder.TOKENIZER).read_text()
    return run_folder.write(folder, config, opened.weights(), words).path


def test_runs_and_options_that_do_not_go_are_refused_in_one_line(runs, tmp_path):
    made = pretrainer(dict(type="Clip"))
    config = {**made.encoder.config(), "objective": made.objective_config}
    plain = run_folder.write(tmp_path / "clip", config, made.run_weights(), None)
    sampled = changed(runs["Uniter"], tmp_path / "sampled", tasks=dict(itm=1.0))
    unsaid = changed(runs["Oscar"], tmp_path / "unsaid", weights=dict(mtl=0.0))
    for run, options, words in (
        (None, {}, "give --backbone RUN"),
        (plain.path, {}, "Clip has no fusion encoder; X-VLM"),
        (sampled, {}, "Uniter did not train its head of hidden words"),
        (unsaid, {}, "Oscar did not train its head of hidden words"),
        (runs["Xvlm"], dict(max_tokens=17), "max_tokens=17.*places for 16"),
        (runs["Xvlm"], dict(generation=dict(num_beam=2)), "did you mean 'num_beams'"),
        (runs["Xvlm"], dict(max_token=3), "takes no argument 'max_token'.*'max_tokens'"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            make(run, **options)
        assert "\n" not in str(caught.value)
    assert make(sampled, scratch=True)
    with pytest.raises(ValueError, match="takes no options"):
        MODELS.build(
            dict(type="sparc.FusionCaptioner", run=str(runs["Xvlm"]), bridge=dict(FUSION, grid=7))
        )
    with pytest.raises(ValueError, match=r"is of type='sparc\.Captioner' with run=RUN"):
        build_bridge(FUSION, None, 4)


def test_a_run_of_region_vectors_from_files_is_refused(runs, monkeypatch):
    def load(run):
        model, objective = encode.untrained(run)
        objective.vision_trained = False
        return model, objective

    monkeypatch.setattr(encode, "load", load)
    with pytest.raises(ValueError, match="trained on region vectors from files and cannot read"):
        make(runs["Uniter"])


def test_the_tools_train_test_and_caption_with_it(runs, tmp_path):
    data = tmp_path / "data"
    numbers = ["--train", "8", "--val", "4", "--size", "64", "--level", "easy"]
    assert call("data", "scenes", "--out", data, *numbers)[0] == 0
    config, work = ROOT / "configs/quickstart/caption_fusion.py", tmp_path / "work"
    options = [
        f"{loader}_dataloader.dataset.{key}"
        for loader in ("train", "val", "test")
        for key in (f"data_root={data}/", "size=32")
    ]
    options += ["train_cfg.max_iters=3", "train_cfg.val_interval=3", "val_evaluator.resamples=0"]
    options += ["train_dataloader.batch_size=4"]
    given = ["--backbone", runs["Kaleido"], "--work-dir", work, "--cfg-options", *options]
    assert call("train", config, *given) == (0, "")
    record = json.loads((work / "metrics.json").read_text())
    assert record["task"] == "captioning" and "caption/CIDEr" in record["metrics"]
    assert record["backbone"]["objective"] == "Kaleido"
    assert len(json.loads((work / "captions.json").read_text())) == 4
    tested = tmp_path / "tested"
    own = [work / "caption_fusion.py", work / "iter_3.pth", "--work-dir", tested]
    assert call("test", *own) == (0, "")
    again = json.loads((tested / "metrics.json").read_text())["metrics"]
    assert again["caption/CIDEr"] == record["metrics"]["caption/CIDEr"]
    photo = tmp_path / "photo.png"
    Image.new("RGB", (48, 40), "red").save(photo)
    assert call("caption", work, photo)[0] == 0
    line = refusal(call("train", config, *given, "--layer-decay", "0.7"))
    assert "no --adamw and no --layer-decay" in line


def boxed(names: list[list[str]]) -> list[BaseDataElement]:
    """Two regions of each image; their names."""
    box = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.25, 1.0, 1.0]])
    pairs = zip(TEXTS, names, strict=True)
    return [
        BaseDataElement(metainfo=dict(caption=text, regions=box, names=one)) for text, one in pairs
    ]


def test_boxes_of_the_data_are_regions_and_their_names_oscars_tags(runs):
    names = [["dog", "sky"], ["cats"], ["sky", "red"], ["green"]]
    ids = torch.randint(3, 250, (4, 7), generator=torch.Generator().manual_seed(1))
    for kind in KINDS:
        model, shown = make(runs[kind]), pictures()

        @torch.no_grad()
        def told(given, ids=ids, model=model, shown=shown):
            write = model.objective.writer(model.images(shown, given))
            real = torch.ones_like(ids).bool()
            return model.states(write, ids, real, torch.arange(4))

        plain, some, others = told(()), told(boxed(names)), told(boxed(names[::-1]))
        moved = [(a - b).abs().amax() > 1e-5 for a, b in ((plain, some), (some, others))]
        assert moved == {"Uniter": [True, False], "Oscar": [True, True]}.get(kind, [False, False])
        cut = told(boxed(names), ids[:, :4])
        torch.testing.assert_close(cut, some[:, :4])  # tags stay in their places, and see no word
    model = make(runs["Oscar"], max_tokens=5)
    loss = model(pictures(), boxed(names), "loss")["caption_loss"]
    loss.backward()
    assert model.encoder.text.word_table.grad[model.encoder.tokenizer.encode("dog").ids[1]].any()
    said = model(pictures(), boxed(names), "predict")
    assert [one.prediction for one in said] == model.generate(pictures(), boxed(names))


def test_a_data_set_gives_the_boxes_of_its_images_as_they_are_seen(tmp_path):
    for n in range(2):
        Image.new("RGB", (40, 20)).save(tmp_path / f"{n}.png")
    sizes = [dict(id=n, file_name=f"{n}.png", width=40, height=20) for n in range(2)]
    box = dict(id=1, image_id=0, category_id=3, bbox=[10, 5, 20, 10])
    kinds = [dict(id=3, name="red dog")]
    write = json.dumps
    file, captions = tmp_path / "boxes.json", tmp_path / "captions.tsv"
    file.write_text(write(dict(images=sizes, annotations=[box], categories=kinds)))
    captions.write_text("0.png\ta dog\n1.png\tthe sky")
    config = dict(type="sparc.CaptionDataset", ann_file="captions.tsv", data_prefix=dict(img=""))
    config |= dict(data_root=str(tmp_path), boxes="boxes.json", size=16)
    data = DATASETS.build(config)
    one, other = (data[n]["data_samples"] for n in range(2))
    assert one.regions.tolist() == [[0.25, 0.25, 0.75, 0.75]] and one.names == ["red dog"]
    assert other.regions.shape == (0, 4) and other.names == []
    cropped = DATASETS.build({**config, "how": "crop"})[0]["data_samples"]  # 10..30 of 40
    assert cropped.regions.tolist() == [[0.0, 0.25, 1.0, 0.75]]
    bare = [dict(id=n, file_name=f"{n}.png") for n in range(2)]
    file.write_text(write(dict(images=bare, annotations=[box], categories=kinds)))
    with pytest.raises(ValueError, match=r"boxes\.json: its images say no width and height"):
        DATASETS.build(config)
