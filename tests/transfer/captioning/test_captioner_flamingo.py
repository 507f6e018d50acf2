"""The Flamingo captioner: what is frozen stays so, and a caption sees its own image only."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from transformers import AutoConfig

from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.registry import MODELS
from tests.transfer.captioning.captioner_parts import CAPTIONS, FAMILIES, SIZE
from transfer.captioning.language_model.sentences import pack
from transfer.captioning.language_model.training import Plan, train, write_folder
from transfer.captioning.model.chunks import Sequences
from transfer.captioning.model.flamingo import FlamingoCaptioner
from transfer.captioning.model.gated import GatedCrossAttention, decoder_layers, image_mask
from transfer.captioning.model.resampler import PerceiverResampler

BRIDGES = {
    "cross_attention": dict(kind="cross_attention", latents=4, depth=2, every=1, heads=4),
    "resampler": dict(kind="resampler", latents=3, depth=1, heads=4),
    "mlp": dict(kind="mlp", grid=2),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    return str(Tokenizer.train(CAPTIONS, 300).save(folder))


def make(
    tokenizer: str, family: str = "gpt2", bridge: str | dict = "cross_attention", **options: Any
) -> FlamingoCaptioner:
    """A tiny captioner; weights are large, so that random language models say different things."""
    torch.manual_seed(0)
    spread = "init_std" if family == "opt" else "initializer_range"
    language = {**FAMILIES[family], spread: 0.3, "frozen": True}
    language.update(options.pop("language", {}))
    config = dict(
        type="sparc.FlamingoCaptioner",
        backbone=dict(type="sparc.ToyBackbone"),
        language_model=language,
        tokenizer=tokenizer,
        bridge=BRIDGES[bridge] if isinstance(bridge, str) else bridge,
        max_tokens=24,
        data_preprocessor=dict(type="sparc.ImagesPreprocessor", mean=[127.5] * 3, std=[60.0] * 3),
    )
    return MODELS.build({**config, **options})


def open_gates(model: FlamingoCaptioner, value: float = 0.8) -> FlamingoCaptioner:
    """As after training: the images matter."""
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            nn.init.constant_(parameter, value)
    for parameter in model.bridge.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.3)
    return model


def images(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (4,)), 3, SIZE, SIZE, generator=generator)


def samples(captions: list[str], **more: Any) -> list[BaseDataElement]:
    return [BaseDataElement(metainfo={"caption": caption, **more}) for caption in captions]


def training_rows(model: FlamingoCaptioner, captions: list[list[str]]) -> Sequences:
    return model.chunks.training(captions)


# ------------------------------------------------------------------ formulas


def test_gated_attention_is_the_formula_of_the_paper() -> None:
    torch.manual_seed(0)
    block = GatedCrossAttention(6, 5, heads=2, inner=8).double()
    nn.init.constant_(block.attention_gate, 0.4)
    nn.init.constant_(block.feed_forward_gate, -0.7)
    x, media = torch.randn(2, 5, 6).double(), torch.randn(2, 3, 4, 5).double()
    index = torch.tensor([[-1, 0, 0, 1, 2], [0, 0, 1, 1, 1]])
    found = block(x, media, index)
    for b in range(2):
        for t in range(5):  # the oracle: one token, one head at a time
            y = x[b, t]
            if index[b, t] >= 0:
                own = media[b, index[b, t]]
                q = block.query(block.norm(y)).view(2, 4)
                k, v = (part.view(4, 2, 4) for part in block.key_value(own).chunk(2, -1))
                heads = []
                for h in range(2):
                    weight = torch.stack([q[h] @ k[j, h] / 2 for j in range(4)]).softmax(0)
                    heads.append(sum(weight[j] * v[j, h] for j in range(4)))
                y = y + torch.tanh(torch.tensor(0.4).double()) * block.out(torch.cat(heads))
            y = y + torch.tanh(torch.tensor(-0.7).double()) * block.feed_forward(y)
            torch.testing.assert_close(found[b, t], y)


def test_the_weights_shown_are_those_used() -> None:
    torch.manual_seed(0)
    block = GatedCrossAttention(6, 6, heads=1)
    nn.init.constant_(block.attention_gate, 1e9)  # tanh = 1
    nn.init.constant_(block.feed_forward_gate, 0)
    x, media = torch.randn(1, 3, 6), torch.randn(1, 2, 4, 6)
    seen: list[Tensor] = []
    found = block(x, media, torch.tensor([[-1, 0, 1]]), seen)
    (weights,) = seen
    assert weights.shape == (1, 3, 8) and weights[0, 0].sum() == 0
    torch.testing.assert_close(weights[0, 1:].sum(-1), torch.ones(2))
    value = block.key_value(media.flatten(1, 2)).chunk(2, -1)[1]
    torch.testing.assert_close(found, x + block.out(weights @ value) * (weights.sum(-1, True) > 0))


def test_the_mask_lets_a_token_see_the_latents_of_its_own_image_only() -> None:
    mask = image_mask(torch.tensor([[-1, 0, 0, 1]]), images=2, latents=2)
    assert mask[0].int().tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]


def test_the_resampler_takes_any_number_of_patches_in_any_order_and_frames_in_theirs() -> None:
    torch.manual_seed(0)
    net = PerceiverResampler(12, 16, latents=5, depth=2, heads=4, frames=3)
    for frames, patches in ((1, 1), (1, 9), (3, 7)):
        assert net(torch.randn(2, frames, patches, 12)).shape == (2, 5, 16)
    nn.init.normal_(net.time)
    x = torch.randn(2, 2, 6, 12)
    order = torch.randperm(6)
    torch.testing.assert_close(net(x[:, :, order]), net(x))  # a set: patches bring their places
    assert (net(x.flip(1)) - net(x)).abs().max() > 1e-2
    seen: list[Tensor] = []
    net(x, seen)
    assert [tuple(one.shape) for one in seen] == [(2, 5, 2 * 6 + 5)] * 2
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(2, 5))
    with pytest.raises(ValueError, match="4 frames of an image, the resampler was built for 3"):
        net(torch.randn(1, 4, 2, 12))


# ------------------------------------------------------------------ every family


@pytest.mark.parametrize("family", FAMILIES)
def test_with_closed_gates_the_language_model_says_what_it_said(
    tokenizer: str, family: str
) -> None:
    model = make(tokenizer, family).eval()
    rows = training_rows(model, [[c] for c in CAPTIONS])
    found = model.logits(model.media(images()), rows)
    positions = torch.arange(rows.ids.shape[1]).expand(4, -1)
    alone = model.language_model(
        inputs_embeds=model.embed(rows.ids),
        attention_mask=rows.mask.long(),
        position_ids=positions,
        use_cache=False,
    ).logits
    assert torch.equal(found, alone)  # bit for bit
    open_gates(model)
    changed = model.logits(model.media(images()), rows)
    assert (changed - alone)[rows.index >= 0].abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_later_words_and_other_images_do_not_change_what_came_before(
    tokenizer: str, family: str
) -> None:
    model = open_gates(make(tokenizer, family)).eval()
    rows = training_rows(model, [[CAPTIONS[0], CAPTIONS[1]], [CAPTIONS[2], CAPTIONS[3]]])
    pixels = images(2, 2)
    before = model.logits(model.media(pixels), rows)
    changed = copy.deepcopy(rows)
    changed.ids[:, 5] = 3 + (changed.ids[:, 5] + 1) % 200
    after = model.logits(model.media(pixels), changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before - after)[:, 5:].abs().max() > 1e-3
    pixels[:, 1] = images(2, seed=9)  # the second image: its chunk changes, the first does not
    after = model.logits(model.media(pixels), rows)
    first = (rows.index == 0) & rows.mask
    torch.testing.assert_close(before[first], after[first])
    assert (before - after)[(rows.index == 1) & rows.mask].abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_from_the_cache_is_generation_without_it(tokenizer: str, family: str) -> None:
    once = dict(no_repeat_ngram_size=1)  # random language models like to repeat themselves
    model = open_gates(make(tokenizer, family, prompt="it shows", generation=once)).eval()
    model.chunks.decode = lambda ids: list(ids)  # the ids themselves
    pixels = images(1, 2)
    (cached,) = model.generate(pixels, [[CAPTIONS[0]]])
    media = model.media(pixels)
    rows = model.chunks.prompts([[CAPTIONS[0]]])
    said: list[int] = []
    while len(said) < 24 and (not said or said[-1] not in model.generation.eos_token_id):
        logits = model.logits(media, rows)[0, -1]  # the whole sequence, every time
        logits[said] = float("-inf")
        said.append(logits.argmax().item())
        more = torch.tensor([[said[-1]]])
        rows = Sequences(
            ids=torch.cat([rows.ids, more], 1),
            index=torch.cat([rows.index, torch.ones_like(more)], 1),
            mask=torch.cat([rows.mask, torch.ones(1, 1, dtype=torch.bool)], 1),
            scored=rows.scored,
        )
    assert said == cached and len(said) > 3


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_generation_is_the_same_in_a_batch_of_other_lengths_and_alone(
    tokenizer: str, family: str, beams: int
) -> None:
    model = open_gates(make(tokenizer, family, generation=dict(num_beams=beams, max_new_tokens=8)))
    model.eval()
    shots = [[CAPTIONS[2]], [CAPTIONS[3]], [CAPTIONS[0]]]  # prompts of three lengths
    pixels = images(3, 2)
    together = model.generate(pixels, shots)
    assert len(set(together)) > 1 and model.generate(pixels, shots) == together
    alone = [model.generate(pixels[i : i + 1], shots[i : i + 1])[0] for i in range(3)]
    assert alone == together


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_neither_logits_nor_loss(tokenizer: str, family: str) -> None:
    model = open_gates(make(tokenizer, family)).eval()
    rows = training_rows(model, [[CAPTIONS[2]], [CAPTIONS[3]]])
    alone = training_rows(model, [[CAPTIONS[2]]])
    length = alone.ids.shape[1]
    assert length < rows.ids.shape[1]
    media = model.media(images(2))
    torch.testing.assert_close(
        model.logits(media, rows)[0, :length], model.logits(media[:1], alone)[0]
    )
    total, count = 0.0, 0
    for i, caption in enumerate(CAPTIONS):  # the loss is the mean over all words, one by one
        one = training_rows(model, [[caption]])
        logits = model.logits(model.media(images()[i : i + 1]), one)[0].double().log_softmax(-1)
        for t in range(1, one.ids.shape[1]):
            if one.scored[0, t]:
                total -= logits[t - 1, one.ids[0, t]].item()
                count += 1
    loss = model(images(), samples(CAPTIONS), mode="loss")["caption_loss"]
    assert loss.item() == pytest.approx(total / count, rel=1e-4)


# ------------------------------------------------------------------ what is trained


@pytest.mark.parametrize("bridge", BRIDGES)
@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_frozen_parts_stay_as_they_are_and_the_rest_learns(
    tokenizer: str, family: str, bridge: str
) -> None:
    model = make(tokenizer, family, bridge)
    before = copy.deepcopy(model.state_dict())
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model.train()(images(), samples(CAPTIONS), mode="loss")["caption_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not any(module.training for module in model.language_model.modules())
    assert not any(module.training for module in model.backbone.modules())
    assert set(optimizer.state) == set(trained)
    for name, value in model.state_dict().items():
        frozen = name.startswith(("language_model.", "backbone.", "identity."))
        assert torch.equal(value, before[name]) == frozen, name
    for part in (model.language_model, model.backbone):
        assert all(p.grad is None for p in part.parameters())


def test_layers_below_the_first_block_keep_nothing_for_the_backward_pass(tokenizer: str) -> None:
    bridge = {**BRIDGES["cross_attention"], "every": 4}
    model = make(tokenizer, bridge=bridge, language=dict(n_layer=8))
    kept: list[bool] = []
    for layer in decoder_layers(model.language_model):
        layer.register_forward_hook(lambda m, args, out: kept.append(_tensor(out).requires_grad))
    model(images(), samples(CAPTIONS), mode="loss")
    assert kept == [False] * 3 + [True] * 5


def test_recomputing_keeps_less_and_changes_no_gradient(tokenizer: str) -> None:
    found = []
    for recompute in (False, True):
        model = open_gates(make(tokenizer, "llama", recompute=recompute))
        size = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal size
            size += tensor.numel() * (not isinstance(tensor, nn.Parameter))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(images(), samples(CAPTIONS), mode="loss")["caption_loss"]
        loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        found.append((size, loss.detach(), grads))
    (all_of_it, loss, grads), (less, same_loss, same_grads) = found
    assert less < 0.6 * all_of_it
    torch.testing.assert_close((same_loss, same_grads), (loss, grads))


def test_a_language_model_in_bfloat16_is_trained_around(tokenizer: str) -> None:
    model = open_gates(make(tokenizer, language=dict(dtype="bfloat16")))
    loss = model(images(), samples(CAPTIONS), mode="loss")["caption_loss"]
    loss.backward()
    assert torch.isfinite(loss) and next(model.language_model.parameters()).dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 and p.grad is not None for p in model.bridge.parameters())
    assert all(isinstance(text, str) for text in model.eval().generate(images()))


@pytest.fixture(scope="module")
def warmed_up(tokenizer: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A language model that has read the four captions, but seen no image."""
    folder = tmp_path_factory.mktemp("warm")
    own = Tokenizer.load(tokenizer)
    model = dict(model_type="gpt2", n_layer=2, n_embd=48, n_head=4, n_positions=96)
    plan = Plan(model=model, steps=150, batch=4, block=64, lr=3e-3, warmup=10)
    blocks = pack(CAPTIONS * 10, own, 64)
    trained, record = train(plan, own, blocks, blocks[:2], folder / "state", lambda line: None)
    assert record["perplexity"] < 3
    write_folder(folder / "lm", trained, own, record)
    return str(folder / "lm")


# a prefix alone cannot teach so small a language model when that is frozen
@pytest.mark.parametrize(("bridge", "frozen"), [("cross_attention", True), ("mlp", False)])
def test_captions_are_learnt_by_heart(warmed_up: str, bridge: str, frozen: bool) -> None:
    torch.manual_seed(0)
    language = dict(pretrained=warmed_up, frozen=frozen)
    model = load(language, bridge=BRIDGES[bridge], max_tokens=64)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    for _ in range(200):
        loss = model.train()(images(), samples(CAPTIONS), mode="loss")["caption_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.02:
            break
    assert model.eval().generate(images()) == CAPTIONS
    assert model.generate(images().flip(0)) == CAPTIONS[::-1]


def test_a_copy_of_the_model_looks_at_its_own_images(tokenizer: str) -> None:
    model = open_gates(make(tokenizer)).eval()
    twin = copy.deepcopy(model)
    for parameter in model.bridge.parameters():
        nn.init.zeros_(parameter)
    rows = training_rows(model, [[c] for c in CAPTIONS])
    expected = open_gates(make(tokenizer)).eval().logits(twin.media(images()), rows)
    difference = twin.logits(twin.media(images()), rows) - model.logits(model.media(images()), rows)
    assert difference.abs().max() > 1e-2 and expected.shape == difference.shape
    assert twin.bridge.context is not model.bridge.context


def test_crops_are_the_image_whole_and_in_pieces(tokenizer: str) -> None:
    model = make(tokenizer, crops=2)
    pixels = images(2)
    frames = model.frames(pixels)
    assert frames.shape == (2, 5, 3, SIZE // 2, SIZE // 2)
    half = SIZE // 2
    assert torch.equal(frames[:, 2], pixels[:, :, :half, half:])
    assert torch.equal(frames[:, 3], pixels[:, :, half:, :half])
    assert model.media(pixels).shape == (2, 1, 4, 16)


# ------------------------------------------------------------------ sequences


def test_sequences_interleave_images_and_captions(tokenizer: str) -> None:
    model = make(tokenizer, prompt="it shows")
    chunks = model.chunks
    rows = chunks.training([["the sky", "a dog"]], prefix=2)
    prompt, sky, dog = (chunks.encode(text) for text in ("it shows", " the sky", " a dog"))
    image, end = [chunks.prefix_id] * 2 + [chunks.image_id], [chunks.end_id]
    first, second = image + prompt + sky + end, image + prompt + dog + end
    assert rows.ids[0].tolist() == first + second
    assert rows.index[0].tolist() == [0] * len(first) + [1] * len(second)
    assert rows.ids[0][rows.scored[0]].tolist() == sky + end + dog + end
    asked = chunks.prompts([["the sky"], []], prompts=[None, "what?"], prefix=2)
    assert asked.ids[0].tolist() == first + image + prompt
    assert asked.ids[1][asked.mask[1]].tolist() == image + chunks.encode("what?")
    assert not asked.mask[1, 0] and asked.mask[:, -1].all()  # padded on the left


def test_a_very_long_caption_is_cut_and_does_not_end(tokenizer: str) -> None:
    model = make(tokenizer)
    rows = model.chunks.training([["dog " * 5000]])
    assert rows.scored.sum() == 24 and rows.ids[0, -1] != model.chunks.end_id
    assert "<eos>" in CAPTION_WITH_MARK
    marked = model.chunks.training([[CAPTION_WITH_MARK]]).ids
    assert (marked == model.tokenizer.eos_token_id).sum() == 0


CAPTION_WITH_MARK = "a <eos> sign"


def test_shots_change_what_is_said_and_each_needs_its_image(tokenizer: str) -> None:
    model = open_gates(make(tokenizer)).eval()
    found = {
        count: model.generate(images(1, count + 1), [[CAPTIONS[i % 4] for i in range(count)]])
        for count in (0, 4, 8)
    }
    assert len({tuple(said) for said in found.values()}) > 1
    with pytest.raises(ValueError, match="3 images a sequence need one caption less as shots"):
        model.generate(images(1, 3), [[CAPTIONS[0]]])
    with pytest.raises(ValueError, match="2 images a sequence need as many captions"):
        model(images(1, 2), samples(CAPTIONS[:1]), mode="loss")


def test_a_question_takes_the_place_of_the_prompt(tokenizer: str) -> None:
    model = open_gates(make(tokenizer, prompt="it shows")).eval()
    asked = samples(["a cat"] * 2, prompt="Question: what? Answer:")
    losses = {
        name: model(images(2), data, mode="loss")["caption_loss"].item()
        for name, data in (("asked", asked), ("plain", samples(["a cat"] * 2)))
    }
    other = make(tokenizer, prompt="Question: what? Answer:")
    other.load_state_dict(model.state_dict())
    expected = other.eval()(images(2), samples(["a cat"] * 2), mode="loss")["caption_loss"].item()
    assert losses["asked"] == expected != losses["plain"]
    said = [s.prediction for s in model(images(2), asked, mode="predict")]
    assert said == other.generate(images(2))


def test_sampling_is_repeatable_and_depends_on_the_seed(tokenizer: str) -> None:
    options = dict(do_sample=True, top_p=0.9, no_repeat_ngram_size=2, length_penalty=0.6)
    said = {}
    for seed in (1, 2):
        model = open_gates(make(tokenizer, generation=dict(options, seed=seed))).eval()
        state = torch.random.get_rng_state()
        said[seed] = model.generate(images())
        assert model.generate(images()) == said[seed]
        assert torch.equal(torch.random.get_rng_state(), state)  # training's order is untouched
    assert said[1] != said[2]


# ------------------------------------------------------------------ mistakes


def test_wrong_options_are_refused_at_the_door(tokenizer: str, tmp_path: Path) -> None:
    def language(**config: Any) -> FlamingoCaptioner:
        return MODELS.build(
            dict(
                type="sparc.FlamingoCaptioner",
                backbone=dict(type="sparc.ToyBackbone"),
                language_model=config,
                tokenizer=tokenizer,
            )
        )

    with pytest.raises(ValueError, match="no causal language model 'gpt3'"):
        language(model_type="gpt3")
    with pytest.raises(ValueError, match="no option 'n_layr'; did you mean 'n_layer'"):
        language(model_type="gpt2", n_layr=2)
    with pytest.raises(ValueError, match="exactly one of pretrained"):
        language(n_layer=2)
    with pytest.raises(FileNotFoundError, match=r"tools/pretrain_lm\.py"):
        language(pretrained=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="knows 50 tokens"):
        language(model_type="gpt2", vocab_size=50)
    with pytest.raises(ValueError, match="choose float32"):
        language(model_type="gpt2", dtype="int8")
    with pytest.raises(ValueError, match=r"bridge.kind='cross_atention' \(did you mean"):
        make(tokenizer, bridge=dict(kind="cross_atention"))
    with pytest.raises(ValueError, match=r"no option 'latent' \(did you mean 'latents'"):
        make(tokenizer, bridge=dict(latent=3))
    with pytest.raises(ValueError, match=r"bridge\.every=9: the language model has 2 layers"):
        make(tokenizer, bridge={**BRIDGES["cross_attention"], "every": 9})
    for options, message in (
        (dict(num_beam=3), "generation has no option 'num_beam'"),
        (dict(validate=True), "generation has no option 'validate'"),
        (dict(max_length=5), "takes no 'max_length': set the captioner's max_tokens"),
        (dict(num_return_sequences=2), "an image gets one caption"),
    ):
        with pytest.raises(ValueError, match=message):
            make(tokenizer, generation=options)
    model = make(tokenizer, generation=dict(max_new_tokens=2000)).eval()
    with pytest.raises(ValueError, match="positions, the language model has"):
        model.generate(images())
    model = make(tokenizer, language=dict(n_positions=30))
    with pytest.raises(ValueError, match="positions, the language model has 30"):
        model.generate(images(1, 3), [CAPTIONS[:2]])


def test_a_name_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", offline)
    with pytest.raises(FileNotFoundError) as caught:
        load(dict(pretrained="someone/no-model"))
    assert str(caught.value).startswith("language model 'someone/no-model' cannot be read: We")
    assert "\n" not in str(caught.value)
    for path in ("work_dirs/lm", "./lm", "/nowhere/lm", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="no language model folder"):
            load(dict(pretrained=path))


def test_a_tokenizer_without_padding_is_an_error_that_names_the_remedy(
    tokenizer: str, tmp_path: Path
) -> None:
    model = make(tokenizer)
    model.tokenizer.pad_token = None
    model.language_model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    config = dict(pretrained=str(tmp_path))
    with pytest.raises(
        ValueError, match=r"no padding token: set language_model\.pad_token='<eos>'"
    ):
        load(config)
    assert load({**config, "pad_token": "<eos>"}).tokenizer.pad_token_id == 2


def load(language_model: dict, **options: Any) -> FlamingoCaptioner:
    base = dict(
        type="sparc.FlamingoCaptioner",
        backbone=dict(type="sparc.ToyBackbone"),
        language_model=language_model,
        bridge=BRIDGES["cross_attention"],
    )
    return MODELS.build({**base, **options})


def test_a_checkpoint_of_another_language_model_is_refused(tokenizer: str, tmp_path: Path) -> None:
    state = make(tokenizer).state_dict()
    make(tokenizer).load_state_dict(state)
    reverse = [caption[::-1] for caption in CAPTIONS]  # another vocabulary of the same size
    other = str(Tokenizer.train(reverse, 300).save(tmp_path))
    for model in (make(other), make(tokenizer, language=dict(n_layer=3)), make(tokenizer, "opt")):
        with pytest.raises(ValueError, match="another language model or tokenizer"):
            model.load_state_dict(state)


def _tensor(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
