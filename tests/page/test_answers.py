"""What `sparc demo` answers; and its page, asked over loopback where gradio is installed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sparc_pretrain.data.scenes import write_scenes
from sparc_pretrain.data.sets.phrases import read_phrases
from sparc_pretrain.page import demo
from sparc_pretrain.page.answers import Answers
from sparc_pretrain.zeroshot import encode, grounding
from tests.commands import call, refusal


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers") / "easy"
    write_scenes(folder, 1, 12, 64, seed=5, level="easy")
    return folder


@pytest.fixture(scope="module")
def answers(scenes: Path) -> Answers:
    return Answers.of("sparc-scenes-tiny", sorted((scenes / "images/val").iterdir()))


def test_boxes_of_words_point_into_their_objects_more_often_than_the_centre(answers, scenes):
    data = read_phrases(scenes / "images/val", scenes / "annotations/phrases_val.json")
    hits, centre = [], []
    for item in data:
        photo = encode.open_image(item.file)
        for phrase in item.phrases:
            [(text, box)] = answers.boxes(photo, phrase.text)
            assert text == phrase.text and box is not None
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            inside = (phrase.boxes[:, :2] <= torch.tensor([x, y])).all(1)
            inside &= (phrase.boxes[:, 2:] > torch.tensor([x, y])).all(1)
            hits.append(float(inside.any()))
            chance = grounding.chance_values(phrase.boxes, (8, 8), (item.height, item.width))
            centre.append(chance["chance_random_patch_pointing"])
    assert len(hits) > 40
    assert sum(hits) / len(hits) > 2 * sum(centre) / len(centre)


def test_images_come_best_first_and_as_retrieval_scores_them(answers: Answers) -> None:
    text = "a brown fish on snow"
    found = answers.images(text, 5)
    data = encode.CaptionedImages(list(answers.files), [text], [0])
    scores = encode.scores(answers.model, answers.objective, data)[:, 0]
    best = scores.topk(5)
    assert [file for file, _ in found] == [answers.files[i] for i in best.indices.tolist()]
    assert [score for _, score in found] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_the_page_of_words_is_the_viewer_in_a_frame_that_is_shut_in(answers: Answers) -> None:
    photo = encode.open_image(answers.files[5]).permute(1, 2, 0).numpy()
    page = demo.words(answers, photo, "a fish </iframe> on snow")
    assert page.count("<iframe") == 1 and page.endswith("</iframe>")
    assert page.index("</iframe>") == len(page) - len("</iframe>")
    assert 'sandbox="allow-scripts"' in page and "allow-same-origin" not in page
    assert "91.4%" in page and "your photo" in page


def test_what_cannot_be_answered_is_said(answers: Answers, scenes: Path, tmp_path: Path) -> None:
    photo = encode.open_image(answers.files[0])
    with pytest.raises(ValueError, match="no words to find"):
        answers.boxes(photo, " , ")
    with pytest.raises(ValueError, match="no text"):
        answers.images(" ")
    with pytest.raises(ValueError, match="--images DIR"):
        Answers.of("sparc-scenes-tiny").images("a fish")
    assert "no images in it" in refusal(call("demo", "sparc-scenes-tiny", "--images", tmp_path))
    missing = tmp_path / "none"
    assert "no such folder" in refusal(call("demo", "sparc-scenes-tiny", "--images", missing))


def test_a_box_that_no_patch_stands_out_for_is_said_and_not_drawn(answers, monkeypatch) -> None:
    photo = encode.open_image(answers.files[0]).permute(1, 2, 0).numpy()
    monkeypatch.setattr(
        Answers, "boxes", lambda *_: [("a fish", [1.2, 2.0, 9.6, 8.0]), ("!!", None)]
    )
    (shown, drawn), said = demo.boxes(answers, photo, "a fish, !!")
    assert shown is photo and drawn == [((1, 2, 10, 8), "a fish")]
    assert said == "no patch stands out for: !!"


def test_of_the_disk_the_demo_hands_out_its_images_alone(scenes: Path, tmp_path: Path) -> None:
    photo = next((scenes / "images/val").iterdir())
    (tmp_path / "link.png").symlink_to(photo)
    (tmp_path / "own.png").write_bytes(photo.read_bytes())
    served = {}
    page = SimpleNamespace(launch=lambda **how: served.update(how))
    demo.serve(page, "127.0.0.1", 7860, [tmp_path / "link.png", tmp_path / "own.png"])
    paths = [Path(one) for one in served["allowed_paths"]]
    assert set(paths) == {photo.resolve(), (tmp_path / "own.png").resolve()}
    assert all(path.is_file() for path in paths) and served["share"] is False


def test_without_gradio_the_command_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    assert "pip install gradio" in refusal(call("demo", "sparc-scenes-tiny"))


def test_the_page_answers_over_loopback(answers: Answers) -> None:
    pytest.importorskip("gradio", reason="gradio is an extra: pip install gradio")
    from gradio_client import Client, handle_file

    page = demo.app(answers)
    _, address, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        client = Client(address, verbose=False)
        photo = handle_file(str(answers.files[5]))
        assert "<iframe" in client.predict(photo, "a fish on snow", api_name="/words")
        found, said = client.predict(photo, "a fish, a cup", api_name="/boxes")
        assert [one["label"] for one in found["annotations"]] == ["a fish", "a cup"] and not said
        shown = client.predict("a brown fish", api_name="/images")
        assert len(shown) == 8
        with pytest.raises(Exception, match="no words to find"):
            client.predict(photo, " ", api_name="/boxes")
    finally:
        page.close()
