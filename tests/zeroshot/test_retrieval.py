"""Recall against a slow loop, and what ties, duplicates and bad input mean."""

import pytest
import torch

from sparc_pretrain.zeroshot.retrieval import recall


def by_loops(similarity, owner, ks):
    """Ranks counted one by one: wrong candidates that score as high stand before the answer."""
    images, texts = len(similarity), len(owner)
    ranks = {"i2t": [], "t2i": []}
    for i in range(images):
        best = max(similarity[i][t] for t in range(texts) if owner[t] == i)
        ranks["i2t"].append(
            1 + sum(1 for t in range(texts) if owner[t] != i and similarity[i][t] >= best)
        )
    for t in range(texts):
        own = similarity[owner[t]][t]
        ranks["t2i"].append(
            1 + sum(1 for i in range(images) if i != owner[t] and similarity[i][t] >= own)
        )
    return {f"{d}_R@{k}": sum(r <= k for r in rs) / len(rs) for d, rs in ranks.items() for k in ks}


@pytest.mark.parametrize("rounded", [False, True])
def test_recall_equals_a_slow_loop_also_with_ties(rounded):
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randn(12, 30, generator=generator)
    if rounded:
        similarity = similarity.round()
    owner = torch.cat([torch.arange(12), torch.randint(0, 12, (18,), generator=generator)])
    result = recall(similarity, owner, ks=(1, 5, 10))
    wanted = by_loops(similarity.tolist(), owner.tolist(), (1, 5, 10))
    assert {k: result[k] for k in wanted} == pytest.approx(wanted)


def test_a_perfect_model_finds_everything_first():
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    similarity = torch.nn.functional.one_hot(owner, 3).T.float()
    result = recall(similarity, owner, ks=(1,))
    assert result["i2t_R@1"] == result["t2i_R@1"] == 1.0
    assert result["i2t_median_rank"] == result["t2i_median_rank"] == 1.0


def test_counts_are_a_similarity_like_any_other():
    counts = torch.tensor([[3, 1, 0], [2, 2, -1], [0, 0, -5]])
    owner = torch.tensor([0, 1, 2])
    assert recall(counts, owner) == recall(counts.double(), owner)


def test_a_constant_model_finds_nothing():
    result = recall(torch.ones(20, 40), torch.arange(40) % 20)
    assert result["i2t_R@10"] == result["t2i_R@10"] == 0.0


def test_a_duplicated_image_counts_as_wrong():
    similarity = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    result = recall(similarity, torch.tensor([0, 1, 2]), ks=(1, 2))
    assert result["t2i_R@1"] == pytest.approx(1 / 3) and result["t2i_R@2"] == 1.0


@pytest.mark.parametrize(
    ("owner", "words"), [([0, 1, 3], "rows from"), ([0, 0, 1], "no caption"), ([0, 1], "shape")]
)
def test_owners_that_do_not_fit_are_refused(owner, words):
    with pytest.raises(ValueError, match=words):
        recall(torch.zeros(3, 3), torch.tensor(owner))


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        recall(torch.full((2, 2), torch.nan), torch.tensor([0, 1]))
