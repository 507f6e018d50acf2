"""Which tokens are hidden, and by what: against slow loops, and what must be true of any draw."""

import math

import pytest
import torch

from sparc_pretrain.objectives import masking


def texts(seed: int, rows: int = 40, length: int = 14, holes: bool = False):
    """candidates, word: begin, words of one to three tokens, end, padding."""
    g = torch.Generator().manual_seed(seed)
    word = torch.full((rows, length), -1)
    for row in word:
        real, at, number = int(torch.randint(0, length - 1, (1,), generator=g)), 1, 0
        while at < real:
            span = min(int(torch.randint(1, 4, (1,), generator=g)), real - at)
            row[at : at + span] = number
            at, number = at + span, number + 1
    candidates = word >= 0
    if holes:
        candidates &= torch.rand(word.shape, generator=g) < 0.7
    return candidates, word, g


def by_budget(candidates, word, noise, rate, most, ngram):
    n = min(most, max(1, round(rate * (sum(candidates) + 1))))
    length, chosen = len(candidates), set()
    for at in sorted((t for t in range(length) if candidates[t]), key=lambda t: noise[t][0]):
        if len(chosen) >= n:
            break
        if at in chosen:
            continue
        span = 2 if noise[at][1] < ngram / 2 else 3 if noise[at][1] < ngram else 1
        begin, end = at, min(at + span, length)
        while begin > 0 and word[begin] >= 0 and word[begin - 1] == word[begin]:
            begin -= 1
        while end < length and word[end] >= 0 and word[end] == word[end - 1]:
            end += 1
        for t in range(begin, end):
            if not candidates[t]:
                break
            chosen.add(t)
    if len(chosen) > n:
        chosen = set(sorted(chosen, key=lambda t: noise[t][2])[:n])
    return [t in chosen for t in range(length)]


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("rate, most, ngram", [(0.25, 8, 0.2), (0.5, 3, 0.9), (0.9, 20, 0.0)])
def test_the_budget_is_spent_as_the_loop_spends_it(rate, most, ngram, holes):
    candidates, word, g = texts(0, holes=holes)
    noise = torch.rand(*word.shape, 3, generator=g, dtype=torch.float64)
    found = masking.choose_by_budget(candidates, word, noise, rate, most, ngram)
    rows = zip(candidates.tolist(), word.tolist(), noise.tolist(), strict=True)
    assert found.tolist() == [by_budget(*row, rate, most, ngram) for row in rows]
    assert not (found & ~candidates).any()


def test_a_budget_of_half_rounds_to_the_even_number():
    for count, wanted in ((1, 1), (5, 2), (9, 2), (13, 4)):  # .25 (n + 1) = .5, 1.5, 2.5, 3.5
        candidates = torch.ones(1, count, dtype=torch.bool)
        noise = torch.rand(1, count, 3)
        chosen = masking.choose_by_budget(candidates, torch.arange(count)[None], noise, ngram=0)
        assert chosen.sum() == wanted


def independently(candidates, noise, rate, at_least_one, word):
    length = len(candidates)
    mine = list(noise)
    if word is not None:
        for t in range(length):
            same = [s for s in range(length) if word[t] >= 0 and word[s] == word[t]]
            first = next((s for s in same if candidates[s]), t)
            mine[t] = noise[first]
    chosen = [c and m < rate for c, m in zip(candidates, mine, strict=True)]
    if at_least_one and not any(chosen) and any(candidates):
        least = min(m for c, m in zip(candidates, mine, strict=True) if c)
        chosen = [c and m == least for c, m in zip(candidates, mine, strict=True)]
    return chosen


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize("at_least_one", [False, True])
def test_independent_choice_equals_the_loop(at_least_one, whole_words, holes):
    candidates, word, g = texts(1, holes=holes)
    noise = torch.rand(word.shape, generator=g, dtype=torch.float64)
    words = word if whole_words else None
    found = masking.choose_independently(candidates, noise, 0.15, at_least_one, words)
    for row in range(len(word)):
        mine = words[row].tolist() if whole_words else None
        wanted = independently(
            candidates[row].tolist(), noise[row].tolist(), 0.15, at_least_one, mine
        )
        assert found[row].tolist() == wanted
    if at_least_one:
        assert torch.equal(found.any(dim=1), candidates.any(dim=1))


def test_of_the_chosen_80_percent_are_masked_and_10_replaced_by_an_id_in_range():
    g = torch.Generator().manual_seed(0)
    ids = torch.full((200, 100), 7)
    chosen = torch.rand(200, 100, generator=g) < 0.5
    noise = torch.rand(200, 100, 2, generator=g, dtype=torch.float64)
    out = masking.corrupt(ids, chosen, noise, 3, 20, 30)
    assert (out[~chosen] == 7).all()
    share = [(out[chosen] == 3), (out[chosen] == 7), (out[chosen] >= 20) & (out[chosen] < 30)]
    for part, wanted in zip(share, (0.8, 0.1, 0.1), strict=True):
        assert part.double().mean().item() == pytest.approx(wanted, abs=0.01)
    assert set(out[chosen].tolist()) == {3, 7, *range(20, 30)}
    edge = [[[0.0, 0.0], [0.8, 0.0], [0.8999, 1 - 1e-9], [0.9, 0.5]]]
    edge = torch.tensor(edge, dtype=torch.float64)
    all_of_it = torch.ones(1, 4, dtype=torch.bool)
    found = masking.corrupt(torch.arange(4)[None] + 50, all_of_it, edge, 3, 20, 30)
    assert found.tolist() == [[3, 20, 29, 53]]


def test_the_loss_is_a_mean_over_masked_tokens_and_0_of_none():
    logits = torch.randn(5, 11, dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([0, 3, 10, 5, 5])
    slow = 0.0
    for row, right in zip(logits.tolist(), wanted.tolist(), strict=True):
        slow += math.log(sum(math.exp(v) for v in row)) - row[right]
    assert masking.masked_lm_loss(logits, wanted).item() == pytest.approx(slow / 5, abs=1e-12)
    assert masking.masked_lm_loss(logits, wanted, 10).item() == pytest.approx(slow / 10, abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: masking.masked_lm_loss(x, wanted), logits)
    nothing = masking.masked_lm_loss(logits[:0], wanted[:0])
    nothing.backward()
    assert nothing.item() == 0 and not logits.grad.any()
