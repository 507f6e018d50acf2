"""Which image embedding a model is read by: one that its objective trained."""

from __future__ import annotations

import torch

from sparc_pretrain.objectives.clip import Clip
from sparc_pretrain.objectives.filip import Filip
from sparc_pretrain.objectives.pacl import Pacl
from sparc_pretrain.objectives.sparc import Sparc
from sparc_pretrain.zeroshot.encode import PooledCosine, readers
from sparc_pretrain.zeroshot.patch_reader import PatchReader, said
from tests.models import batch, encoder, masked


def test_objectives_that_leave_h_v_untrained_are_read_by_their_patches():
    assert [o.trained_head for o in (Filip(), Pacl(8), Sparc(global_weight=0))] == ["local"] * 3
    assert [o.trained_head for o in (Clip(), Sparc(), Filip(global_weight=1.0))] == ["global"] * 3
    assert PooledCosine().trained_head == "global"  # a run without objective: towers of others


def test_the_local_reading_does_not_go_through_h_v():
    model, pairs = encoder().eval(), batch()
    local, whole = readers(Filip())["pooled_"], readers(Clip())["pooled_"]

    def read(reader):
        with torch.no_grad():
            features = model(pairs.image, pairs.ids, pairs.mask, pairs.special)
            return reader.scores(features, features)

    before = read(local), read(whole)
    with torch.no_grad():
        model.adapters.h_v[0].weight.mul_(-3)
    assert torch.equal(read(local), before[0])
    assert not torch.allclose(read(whole), before[1])


def test_the_image_contrast_is_read_densely_as_it_trains_patches_and_tokens():
    """Patches by g_v alone, words by the tokens that were held against images."""
    model, pairs = encoder().eval(), batch()
    with torch.no_grad():
        text = model(pairs.image, pairs.ids, pairs.mask, pairs.special)
    free = Sparc(image_contrast=1.0, token_context="both")
    assert [PatchReader.of(o).head for o in (Sparc(), Clip(), free)] == [
        "global",
        "global",
        "local",
    ]
    assert PatchReader.of(free, "global").head == "global"
    assert free.trained_head == "global"  # the pooled image goes through h_v all the same
    assert free.word_features == "words"
    for objective in (Sparc(), Sparc(image_contrast=1.0), Clip()):
        assert objective.word_features == "tokens"
    same = torch.cat([pairs.ids[:, 2:3], pairs.ids[:, 1:]], dim=1)  # another first token
    with torch.no_grad():
        other = model(pairs.image, same, pairs.mask, pairs.special)
    torch.testing.assert_close(other.words[:, 1:], text.words[:, 1:])
    assert not torch.allclose(other.tokens[:, 1], text.tokens[:, 1])


def test_patches_of_one_stream_are_said_to_be_read_not_at_all():
    assert said(masked("Uniter").objective) == "not at all"
    assert said(Clip()) == "g_v(h_v(patch))" and said(Filip()) == "g_v(patch)"
