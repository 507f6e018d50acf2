"""Tokenizers: nothing unknown, spans true, end kept, roles survive, no code from files."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, processors

from sparc_pretrain.data import vocabularies
from sparc_pretrain.data.tokenizer import WORD, Tokenizer

CAPTIONS = [
    "A black dog is running through the snow.",
    "Two children play with a red ball on the beach.",
    "A man's dog, wearing a collar, jumps over a log!",
    "The 3 girls are sitting on a bench; one isn't smiling.",
    "A dog and a cat sleep on the sofa.",
]
ODD = [
    "",
    " ",
    "\0",
    "🐶🐱 emoji",
    "שלום עולם",
    "e\u0301 combining",
    "ﬁne",
    "\ud800",
    "a\u200db",
    "x" * 500,
]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return Tokenizer.train(CAPTIONS * 3, vocab_size=400)


@pytest.fixture(scope="module")
def clip() -> Tokenizer:
    return Tokenizer.open_clip()


@pytest.fixture(params=["trained", "clip"])
def tokenizer(request) -> Tokenizer:
    return request.getfixturevalue(request.param)


def test_a_trained_one_has_its_special_tokens_first_and_learns_words(trained):
    assert (trained.pad_id, trained.bos_id, trained.eos_id) == (0, 1, 2)
    assert trained.vocab_size <= 400
    assert len(trained.encode("dog").ids) == 3, "a frequent word is one token"
    assert trained.encode("dog").ids == trained.encode("DOG").ids


def test_training_twice_gives_the_same_vocabulary():
    one, two = (Tokenizer.train(CAPTIONS * 3, vocab_size=350) for _ in range(2))
    assert one.to_json() == two.to_json()


def test_case_can_be_kept():
    tokenizer = Tokenizer.train(CAPTIONS, vocab_size=300, lowercase=False)
    assert tokenizer.encode("dog").ids != tokenizer.encode("Dog").ids


@pytest.mark.parametrize("size", [258, 32001])
def test_vocabularies_that_are_too_small_or_large_are_refused(size):
    with pytest.raises(ValueError, match=r"259\.\.32000"):
        Tokenizer.train(CAPTIONS, vocab_size=size)


@pytest.mark.parametrize("text", ODD)
def test_any_text_is_framed_and_comes_back(tokenizer, text):
    encoding = tokenizer.encode(text, 1000)
    assert encoding.ids[0] == tokenizer.bos_id and encoding.ids[-1] == tokenizer.eos_id
    assert encoding.special == [True, *[False] * (len(encoding) - 2), True]
    assert len(encoding.ids) == len(encoding.special) == len(encoding.spans)
    if text not in ("\ud800", "e\u0301 combining", "ﬁne"):  # normalised on purpose
        assert tokenizer.decode(encoding.ids).replace(" ", "") == text.replace(" ", "")


def test_spans_point_at_the_characters_of_each_token(tokenizer):
    text = "  The dog's DOG"
    encoding = tokenizer.encode(text)
    covered = "".join(text[a:b] for a, b in encoding.spans)
    assert covered.replace(" ", "") == "Thedog'sDOG"
    for token, (a, b) in zip(encoding.ids[1:-1], encoding.spans[1:-1], strict=True):
        assert tokenizer.decode([token]).strip() == text[a:b].lower().strip()


def test_a_long_text_loses_its_tail_and_keeps_its_end(tokenizer):
    text = " ".join(CAPTIONS)
    whole, cut = tokenizer.encode(text, 10**4), tokenizer.encode(text, 12)
    assert len(cut) == 12 and cut.ids[:11] == whole.ids[:11] and cut.ids[-1] == tokenizer.eos_id
    assert cut.special[-1] and cut.spans[:11] == whole.spans[:11]
    assert tokenizer.encode(text, 2).ids == [tokenizer.bos_id, tokenizer.eos_id]
    with pytest.raises(ValueError, match="at least 2"):
        tokenizer.encode(text, 1)


@pytest.mark.parametrize("unit", ["a", " ", "dog ", "é😀", "\0", ".!", "\n\t"])
def test_a_megabyte_of_text_takes_less_than_a_second(tokenizer, unit):
    text = unit * (10**6 // len(unit))
    start = time.perf_counter()
    assert len(tokenizer.encode(text, 55)) <= 55
    assert time.perf_counter() - start < 1


def test_special_tokens_written_in_a_caption_are_text(tokenizer):
    for name in ("<eos>", "<pad>", "<end_of_text>", "<start_of_text>"):
        ids = tokenizer.encode(f"a {name} b").ids
        assert tokenizer.eos_id not in ids[1:-1] and tokenizer.bos_id not in ids[1:-1]


def test_a_batch_is_padded_to_its_longest(tokenizer):
    texts = ["a dog", CAPTIONS[2], ""]
    ids, mask, special = tokenizer.batch(texts, 20)
    assert ids.dtype == torch.long and mask.dtype == special.dtype == torch.bool
    for row, text in enumerate(texts):
        encoding = tokenizer.encode(text, 20)
        n = len(encoding)
        assert ids[row].tolist() == encoding.ids + [tokenizer.pad_id] * (ids.shape[1] - n)
        assert mask[row].tolist() == [True] * n + [False] * (ids.shape[1] - n)
        assert special[row, :n].tolist() == encoding.special and not special[row, n:].any()
    assert ids.shape[1] == max(len(tokenizer.encode(text, 20)) for text in texts)


def test_words_know_their_tokens(tokenizer):
    text = "A man's dog, 🐶 unbelievable!"
    encoding = tokenizer.encode(text)
    words = tokenizer.words(text, encoding)
    assert [word for word, _ in words] == ["A", "man's", "dog", ",", "🐶", "unbelievable", "!"]
    used = [position for _, positions in words for position in positions]
    assert len(used) == len(set(used)) and not any(encoding.special[i] for i in used)
    short = tokenizer.encode(text, 4)
    assert [word for word, _ in tokenizer.words(text, short)][:1] == ["A"]
    assert "unbelievable" not in dict(tokenizer.words(text, short))


@pytest.mark.parametrize("word", ["नमस्ते", "தமிழ்", "สวัสดี", "cafe\u0301"])
def test_signs_that_follow_a_letter_stay_in_its_word(word):
    assert [match.group() for match in WORD.finditer(f"{word} {word}, x")] == [word, word, ",", "x"]


def test_open_clip_ids_are_open_clip_s_own(clip):
    import open_clip

    texts = [
        *CAPTIONS,
        "It\u2019s a \u201cquoted\u201d caf\u00e9 &amp; bar\u2026",
        "x86 2021's 50% off!!  tabs\there",
    ]
    texts += [
        "🐶 emoji",
        "\u05e9\u05dc\u05d5\u05dd",
        "don't we'll I'M",
        "co-op a/b_c #tag @you",
        " ".join(CAPTIONS * 3),
    ]
    want = open_clip.tokenize(texts, context_length=77)
    for text, row in zip(texts, want, strict=True):
        ids = clip.encode(text, 77).ids
        assert ids + [clip.pad_id] * (77 - len(ids)) == row.tolist(), text
    assert clip.vocab_size == 49408


def test_open_clip_ids_are_equal_on_thousands_of_real_captions(clip):
    folder = Path(__file__).parents[3] / "shared" / "data" / "flickr8k"
    if not folder.is_dir():
        pytest.skip("the real captions are not here")
    from open_clip.tokenizer import SimpleTokenizer

    theirs = SimpleTokenizer()
    annotations = json.loads((folder / "captions_val.json").read_text())["annotations"]
    for annotation in annotations[:3000]:
        assert clip.encode(annotation["caption"], 500).ids[1:-1] == theirs.encode(
            annotation["caption"]
        )


def test_one_file_keeps_everything(tokenizer, tmp_path):
    path = tokenizer.save(tmp_path / "run")
    assert path.name == "tokenizer.json" and [p.name for p in path.parent.iterdir()] == [path.name]
    for source in (path, path.parent, str(path)):
        loaded = Tokenizer.load(source)
        for name in ("pad_id", "bos_id", "eos_id", "vocab_size"):
            assert getattr(loaded, name) == getattr(tokenizer, name)
        for text in [*CAPTIONS, *ODD, "<eos>"]:
            assert loaded.encode(text) == tokenizer.encode(text)
    assert Tokenizer.load(path).to_json() == path.read_text()


def test_a_copy_for_a_worker_process_is_equal(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("a <eos> dog") == tokenizer.encode("a <eos> dog")


def test_the_name_open_clip_is_understood(clip):
    assert Tokenizer.load("open_clip").to_json() == clip.to_json()


def bert(folder: Path, framed: bool) -> Path:
    """A word-piece tokenizer as Hugging Face folders hold it: padded, roles in other files."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog"]
    inner = tokenizers.Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(words[:4])
    if framed:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        inner.enable_padding(length=77, pad_id=0, pad_token="[PAD]")
        inner.enable_truncation(max_length=3)
    folder.mkdir()
    inner.save(str(folder / "tokenizer.json"))
    roles = {"cls_token": "[CLS]", "sep_token": {"content": "[SEP]"}, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    return folder


@pytest.mark.parametrize("framed", [True, False])
def test_a_hugging_face_folder_is_loaded_and_its_roles_move_into_one_file(tmp_path, framed):
    tokenizer = Tokenizer.load(bert(tmp_path / "hf", framed))
    assert tokenizer.encode("a dog a dog").ids == [2, 4, 5, 4, 5, 3]
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 2, 3)
    again = Tokenizer.load(tokenizer.save(tmp_path / "alone"))
    assert again.encode("a dog").ids == [2, 4, 5, 3] and again.pad_id == 0


def test_a_hugging_face_name_downloads_json_files_only(tmp_path, monkeypatch):
    import huggingface_hub

    folder, asked = bert(tmp_path / "hf", False), []

    def download(name: str, file: str) -> str:
        asked.append(file)
        if not (folder / file).exists():
            raise OSError("404")
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert Tokenizer.load("someone/something").eos_id == 3
    assert all(file.endswith(".json") for file in asked)


def test_a_name_that_cannot_be_had_is_told_in_one_line(monkeypatch):
    import huggingface_hub

    def download(name: str, file: str) -> str:
        raise OSError("no network\nlong story")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(FileNotFoundError, match=r"no/such.*no network") as error:
        Tokenizer.load("no/such")
    assert "\n" not in str(error.value)


def test_files_that_are_no_tokenizer_are_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(pickle.dumps(Canary(tmp_path / "canary"), protocol=0))
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        Tokenizer.load(tmp_path)
    assert not (tmp_path / "canary").exists()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path / "none.json")
    bare = tokenizers.Tokenizer(models.BPE())
    (tmp_path / "tokenizer.json").write_text(bare.to_str())
    with pytest.raises(ValueError, match="begin and end"):
        Tokenizer.load(tmp_path)


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_the_byte_letters_are_those_of_clip():
    from open_clip.tokenizer import bytes_to_unicode

    assert vocabularies._byte_letters() == list(bytes_to_unicode().values())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("padding", {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None,
                     "pad_id": 9999, "pad_type_id": 0, "pad_token": "<pad>"}),
        ("model", {"type": "BPE"}),
        ("model", None),
        ("post_processor", {"type": "TemplateProcessing", "single": [], "pair": []}),
        ("pre_tokenizer", {"type": "os.system"}),
        ("added_tokens", 3),
    ],
)  # fmt: skip
def test_a_tokenizer_file_with_a_strange_part_is_refused(tmp_path, key, value):
    content = json.loads(Tokenizer.train(["a red kite"] * 3, 270).to_json())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, key: value}))
    with pytest.raises(ValueError, match="token"):
        Tokenizer.load(tmp_path)


def test_a_panic_of_the_library_is_a_refusal(tmp_path, monkeypatch):
    class PanicException(BaseException):
        """As pyo3 raises it."""

    def panic(text):
        raise PanicException("called `Option::unwrap()` on a `None` value")

    path = Tokenizer.train(["a red kite"] * 3, 270).save(tmp_path)
    monkeypatch.setattr(vocabularies.tokenizers.Tokenizer, "from_str", panic)
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json .*unwrap"):
        Tokenizer.load(path)


def test_a_panic_of_the_library_says_nothing_beside_the_refusal(tmp_path, capfd):
    content = json.loads(Tokenizer.train(["a red kite"] * 3, 270).to_json())
    (frame,) = [
        part
        for part in content["post_processor"]["processors"]
        if part["type"] == "TemplateProcessing"
    ]
    frame["special_tokens"].popitem()
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        Tokenizer.load(tmp_path)
    assert capfd.readouterr() == ("", "")
