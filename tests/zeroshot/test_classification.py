"""Prompts, ensembles and accuracies against slow loops; data sets; a model that knows all."""

from __future__ import annotations

import json

import pytest
import torch

from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.clip import Clip
from sparc_pretrain.types import TextFeatures
from sparc_pretrain.zeroshot import classification, prompts
from sparc_pretrain.zeroshot.classification import accuracy, class_ranks, read_labelled
from tests import models
from tests.zeroshot.oracle_model import NAMES, oracle, paint


class Tokenwise(Objective):
    """A reader of tokens, as FILIP: the mean over real tokens of the best patch's inner product."""

    coupled_features = score_features = ("patches", "tokens")

    def scores(self, image, text):
        best = torch.einsum("ipd,ctd->icpt", image.patches, text.tokens).amax(dim=2)
        return (best * text.mask).sum(dim=2) / text.mask.sum(dim=1)


@pytest.mark.parametrize("rounded", [False, True])
def test_ranks_and_accuracies_equal_slow_loops_also_with_ties(rounded):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 7, generator=generator, dtype=torch.float64)
    scores = scores.round() if rounded else scores
    labels = torch.randint(0, 6, (40,), generator=generator)  # the last class never occurs
    ranks = [
        1 + sum(1 for k in range(7) if k != y and row[k] >= row[y])
        for row, y in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    assert class_ranks(scores, labels).tolist() == ranks
    found = accuracy(torch.tensor(ranks), labels, ks=(1, 5))
    assert found["top1"] == pytest.approx(sum(r == 1 for r in ranks) / 40)
    assert found["top5"] == pytest.approx(sum(r <= 5 for r in ranks) / 40)
    per_class = []
    for k in range(6):
        own = [r for r, y in zip(ranks, labels.tolist(), strict=True) if y == k]
        per_class.append(sum(r == 1 for r in own) / len(own))
    assert found["mean_per_class"] == pytest.approx(sum(per_class) / 6)


def test_a_constant_model_classifies_nothing():
    labels = torch.arange(5)
    assert accuracy(class_ranks(torch.zeros(5, 9), labels), labels)["top5"] == 0


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        (torch.zeros(2, 3), [0, 3], "0 to 2"),
        (torch.zeros(2, 3), [0], "labels for scores"),
        (torch.full((1, 3), torch.nan), [0], "NaN"),
    ],
)
def test_labels_that_do_not_fit_are_refused(scores, labels, words):
    with pytest.raises(ValueError, match=words):
        class_ranks(scores, torch.tensor(labels))


def test_the_80_templates_of_clip_and_the_papers_suffixes():
    templates = prompts.templates("openai")
    assert len(templates) == 80 and "a bad photo of a {}." in templates
    assert all(t.count("{}") == 1 for t in templates)
    both = prompts.templates("openai", ["I like it.", "It is common."])
    assert len(both) == 160 and "a bad photo of a {}, I like it." in both
    assert prompts.templates("label") == ["{}"]
    assert prompts.fill("a {}, {}", "cat {0}") == "a cat {0}, {}"


def test_templates_of_a_file(tmp_path):
    file = tmp_path / "templates.txt"
    file.write_text("a photo of a {c}.\n\nmy {label}\n")
    assert prompts.templates(str(file)) == ["a photo of a {}.", "my {}"]
    file.write_text("a photo of a {}.\na photo\n")
    with pytest.raises(ValueError, match=r"templates.txt, line 2: needs one '\{\}'"):
        prompts.templates(str(file))
    with pytest.raises(FileNotFoundError, match="no templates"):
        prompts.templates(str(tmp_path / "none.txt"))
    file.write_text("\n")
    with pytest.raises(ValueError, match="no template"):
        prompts.templates(str(file))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "dog\nhot dog\n"),
        ("a.json", '["dog", "hot dog"]'),
        ("a.json", '{"classes": [{"name": "dog"}, {"name": "hot dog"}]}'),
        ("a.json", '{"categories": [{"id": 3, "name": "dog"}, {"id": 9, "name": "hot dog"}]}'),
        ("a.csv", "Idx,Name\n1,dog\n2,hot dog\n"),
    ],
)
def test_class_names_are_read_from_common_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert prompts.read_classes(tmp_path / name) == ["dog", "hot dog"]


@pytest.mark.parametrize(
    ("name", "text"), [("a.txt", ""), ("a.json", "{}"), ("a.json", "["), ("a.json", '["a", ""]')]
)
def test_files_without_class_names_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        prompts.read_classes(tmp_path / name)


def test_categories_that_would_sound_alike_keep_what_is_in_brackets():
    names = ["bow_(weapon)", "bow_(decorative_ribbons)", "fish", "fish_(food)", "bed_sheet_(cover)"]
    assert prompts.spoken_apart(names) == [
        "bow, weapon",
        "bow, decorative ribbons",
        "fish",
        "fish, food",
        "bed sheet",
    ]


def test_names_as_people_say_them():
    assert prompts.spoken("bed_sheet_(cover)") == "bed sheet" and prompts.spoken("(x)") == "(x)"
    assert prompts.synonyms("building;edifice, house") == ["building", "edifice", "house"]


def test_an_ensemble_of_embeddings_is_the_unit_mean_of_unit_embeddings():
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    nothing = text[:, :0]
    parts = [
        TextFeatures(text[rows], nothing, nothing.bool(), nothing.bool(), nothing)
        for rows in (slice(0, 4), slice(4, 6))
    ]
    found = prompts.class_embeddings(parts, prompts=3).text
    for k in range(2):
        mean = [0.0] * 5
        for m in range(3):
            row = text[3 * k + m].tolist()
            norm = sum(v * v for v in row) ** 0.5
            mean = [a + v / norm / 3 for a, v in zip(mean, row, strict=True)]
        norm = sum(v * v for v in mean) ** 0.5
        assert found[k].tolist() == pytest.approx([v / norm for v in mean], abs=1e-12)


def test_an_ensemble_of_scores_is_their_mean_class_by_class():
    scores = torch.tensor([[1.0, 3, 10, 20], [0, 2, 5, 5]])
    assert prompts.merge_scores(scores, 2).tolist() == [[2, 15], [1, 5]]


@pytest.mark.parametrize("ensemble", ["embedding", "score"])
def test_class_scores_are_those_of_prompts_scored_one_by_one(ensemble, tmp_path):
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["a photo of a cat and a dog"] * 3, vocab_size=290)
    model = models.encoder(tokenizer)
    model.text = models.TextTower(**{**models.TEXT, "vocab_size": 290, "max_tokens": 40})
    model.eval()
    file = tmp_path / "photo.png"
    paint(file, torch.arange(16).view(4, 4).numpy() % 6)
    labels, templates = ["cat", "a long dog"], ["{}", "a photo of a {}."]
    reader = Tokenwise() if ensemble == "score" else Clip()
    texts = prompts.ClassTexts(model, {"": reader}, labels, templates, ensemble, batch_size=3)
    scores = classification.encode.score_images(model, {"": reader}, [file], texts.texts)
    found = texts.class_scores(scores)[""][0].tolist()
    with torch.no_grad():
        image = classification.encode.open_image(file)
        image = model.image_features(classification.encode.images.eval_resize(image, 32)[None])
        for k, label in enumerate(labels):
            each = [
                model.text_features(*model.tokenize([t.replace("{}", label)])) for t in templates
            ]
            if ensemble == "score":
                wanted = sum(reader.scores(image, t).item() for t in each) / 2
            else:
                units = [t.text[0] / t.text[0].norm() for t in each]
                wanted = torch.cosine_similarity(image.image[0], sum(units), dim=0).item()
            assert found[k] == pytest.approx(wanted, abs=1e-5)


def test_embeddings_of_tokens_are_not_averaged():
    with pytest.raises(ValueError, match="--ensemble score"):
        prompts.how_merged(Tokenwise(), "embedding")
    assert prompts.how_merged(Tokenwise(), "auto") == "score"
    assert prompts.how_merged(Clip(), "auto") == "embedding"
    with pytest.raises(ValueError, match="use one of"):
        prompts.how_merged(Clip(), "mean")


@pytest.fixture()
def folders(tmp_path):
    """A folder per class, two plain pictures each."""
    for k, name in enumerate(NAMES):
        for number in range(2):
            paint(tmp_path / "photos" / name / f"{number}.png", torch.full((8, 8), k).numpy())
    return tmp_path / "photos"


def test_a_model_that_knows_the_objects_classifies_all_by_every_reading(folders):
    data = read_labelled(folders)
    assert data.classes == sorted(NAMES) and len(data.files) == 12
    for reader in (Clip(), Tokenwise()):
        templates = [*prompts.templates("label", ["nice"]), "the {} that we saw"]
        found = classification.evaluate(oracle(), reader, data, templates)
        for name in ("top1", "top5", "mean_per_class"):
            assert found.metrics[name] == found.metrics[f"pooled_{name}"] == 1.0
        assert found.protocol["chance_top1"] == 1 / 6 and found.protocol["templates"] == 2
        assert found.items["top1"] == [1.0] * 12


def test_a_table_of_labels_and_names_for_them(folders, tmp_path):
    table = tmp_path / "val.csv"
    table.write_text("image,label\ndog/0.png,n2\ncar/1.png,n10\ndog/1.png,n2\n")
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"n10": "car", "n2": "dog", "n3": "sheep"}))
    data = read_labelled(folders, table, names)
    assert data.classes == ["car", "dog", "sheep"] and data.labels == [1, 0, 1]
    table.write_text("image,label\ndog/0.png,2\ncar/1.png,10\n")
    numbers = tmp_path / "names.txt"
    numbers.write_text("\n".join(f"class {i}" for i in range(12)))
    data = read_labelled(folders, table, numbers)
    assert [data.classes[i] for i in data.labels] == ["class 2", "class 10"]


def test_a_list_of_names_may_be_longer_than_the_folders_that_are_there(folders, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["zebra", *NAMES]))
    data = read_labelled(folders, None, names)
    assert data.classes == ["zebra", *NAMES]
    assert [file.parent.name for file in data.files] == [data.classes[k] for k in data.labels]


def test_hidden_files_and_folders_are_neither_images_nor_classes(folders):
    plain = read_labelled(folders)
    picture = (folders / "dog" / "0.png").read_bytes()
    hidden = ["dog/._0.png", "dog/.ipynb_checkpoints/0-checkpoint.png", ".ipynb_checkpoints/0.png"]
    for name in (*hidden, "__MACOSX/dog/._0.png"):
        (folders / name).parent.mkdir(parents=True, exist_ok=True)
        (folders / name).write_bytes(picture)
    data = read_labelled(folders)
    assert (data.files, data.labels, data.classes) == (plain.files, plain.labels, plain.classes)
    assert data.hidden == 4 and plain.hidden == 0
    found = classification.evaluate(oracle(), Clip(), data)
    assert found.protocol["hidden_files_left_out"] == 4


def test_classes_of_one_text_count_as_argmax_takes_them(folders, monkeypatch):
    """ImageNet's own names hold "missile" and "sunglasses" twice."""
    generator = torch.Generator().manual_seed(0)
    texts = ["a", "b", "a", "c", "a", "b"]
    once = torch.randn(40, 3, generator=generator)
    scores = once[:, ["abc".index(text) for text in texts]]
    labels = torch.arange(40) % 6
    top = class_ranks(scores, labels, texts) == 1
    assert torch.equal(top, scores.argmax(dim=1) == labels)
    assert not (class_ranks(scores, labels)[labels == 0] == 1).any()  # as it was: never right
    assert torch.equal(
        class_ranks(scores[:, [0, 1, 3]], labels % 3, ["a", "b", "c"]),
        class_ranks(scores[:, [0, 1, 3]], labels % 3),
    )
    # an oracle of names, with numbers that differ a little from batch to batch
    noisy = torch.eye(3)[["abc".index(texts[y]) for y in labels]][
        :, ["abc".index(t) for t in texts]
    ]
    noisy += 1e-6 * torch.randn(noisy.shape, generator=generator)
    right = torch.tensor([y == texts.index(texts[y]) for y in labels])
    assert torch.equal(class_ranks(noisy, labels, texts) == 1, right)

    said = []
    monkeypatch.setattr(classification, "print_log", lambda text, *_: said.append(text))
    (folders / "hound").mkdir()
    (folders / "dog" / "1.png").rename(folders / "hound" / "1.png")
    names = folders.parent / "names.json"
    names.write_text(json.dumps({n: n for n in NAMES} | {"hound": "dog"}))
    found = classification.evaluate(oracle(), Clip(), read_labelled(folders, None, names))
    assert found.metrics["top1"] == 11 / 12  # the hound is taken for the first class of its text
    assert found.protocol["classes_of_one_text"] == ["dog"]
    assert "'dog' (1 in all): several classes have this one text" in said[0]


def test_folders_that_are_numbers_take_the_names_in_their_order_also_without_images(tmp_path):
    for folder in ("2", "10", "1", ".cache"):
        paint(tmp_path / "photos" / folder / "0.png", torch.zeros(8, 8).int().numpy())
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\ncat\n")
    (tmp_path / "photos" / "2" / "0.png").unlink()
    data = read_labelled(tmp_path / "photos", None, names)
    assert data.classes == ["ant", "bee", "cat"]
    assert [(f.parent.name, y) for f, y in zip(data.files, data.labels, strict=True)] == [
        ("1", 0),
        ("10", 2),
    ]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("file,label\na,b\n", ValueError, "line 1: needs the columns"),
        ("image,label\nnone.png,dog\n", FileNotFoundError, "none.png is missing"),
        ("image,label\ndog/0.png,\n", ValueError, "line 2: no image or no label"),
        ("image,label\n", ValueError, "no images"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(folders, tmp_path, text, error, words):
    table = tmp_path / "val.csv"
    table.write_text(text)
    with pytest.raises(error, match=words):
        read_labelled(folders, table)


def test_data_sets_that_are_not_there_are_refused(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_labelled(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no table"):
        read_labelled(folders, tmp_path / "none.csv")
    with pytest.raises(ValueError, match="no folder per class"):
        read_labelled(folders / "dog")
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\n")
    with pytest.raises(ValueError, match="2 names for 6 classes"):
        read_labelled(folders, None, names)
    (tmp_path / "names.json").write_text('{"dog": "dog"}')
    with pytest.raises(ValueError, match="class 'ball' has no name"):
        read_labelled(folders, None, tmp_path / "names.json")
