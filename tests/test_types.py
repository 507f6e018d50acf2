"""What travels in batches: rows are cut whole, and what was chosen is found by its counts."""

from __future__ import annotations

import pytest
import torch

from sparc_pretrain.types import Views, Words
from tests.models import region_batch


def views() -> Views:
    g = torch.Generator().manual_seed(0)
    words = torch.rand(6, 5, generator=g) < 0.4
    concepts = torch.rand(6, 2, 3, generator=g) < 0.3
    texts = {"masked": Words(*(torch.arange(30).view(6, 5) + n for n in range(3)))}
    return Views(texts=texts, step=7).choose(words=words, concepts=concepts)


def test_a_batch_is_cut_with_its_views_and_their_counts():
    batch = region_batch(6)
    batch.views = views()
    for which in (slice(2, 4), torch.tensor([5, 0, 3])):
        part = batch.rows(which)
        assert torch.equal(part.views.texts["masked"].ids, batch.views.texts["masked"].ids[which])
        assert torch.equal(part.regions.box, batch.regions.box[which])
        numbers = range(6)[which] if isinstance(which, slice) else which.tolist()
        assert part.key == [batch.key[n] for n in numbers]
        assert (part.views.step, part.views.totals) == (7, batch.views.totals)
        for name, mask in batch.views.drawn.items():
            assert part.views.counts[name] == mask[which].flatten(1).sum(dim=1).tolist()
            assert torch.equal(part.views.places(name), mask[which].flatten().nonzero()[:, 0])


def test_what_was_counted_is_the_mask_that_is_there():
    made = views()
    for name, mask in made.drawn.items():
        assert made.totals[name] == sum(made.counts[name]) == int(mask.sum()) > 0
    other = made.choose(words=torch.zeros(6, 5, dtype=torch.bool))
    assert other.counts["concepts"] == made.counts["concepts"]
    assert not len(other.places("words")) and other.totals["words"] == 0
    made.drawn["words"] = ~made.drawn["words"]
    with pytest.raises(RuntimeError, match=r"'words'.*another mask"):
        made.places("words")
