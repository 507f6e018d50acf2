"""The answers of a run folder behind a page to type into, by gradio: an extra that is installed
apart. Nothing here computes; `answers` does.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparc_pretrain.page.answers import Answers
from sparc_pretrain.zeroshot import encode, readings

if TYPE_CHECKING:
    import gradio
    import numpy as np

MISSING = "sparc demo needs gradio, which is installed apart: pip install gradio"
# The viewer with its script, in a frame that can reach nothing of the page around it.
FRAME = (
    '<iframe title="Words on patches" sandbox="allow-scripts" srcdoc="{}" '
    'style="width:100%;height:900px;border:0;border-radius:8px"></iframe>'
)
FLAT = "no patch stands out for: "


def app(answers: Answers) -> gradio.Blocks:
    """The page of three tabs; the third only with files to look among. Its functions have the API
    names words, boxes and images.

    Raises ImportError without gradio.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError(MISSING) from error

    def answered(function: Callable[..., Any]) -> Callable[..., Any]:
        """What `answers` refuses is said on the page, in its words."""

        def told(photo: np.ndarray | None, text: str) -> Any:
            if photo is None:
                raise gr.Error("give a photo first")
            try:
                return function(answers, photo, text)
            except ValueError as error:
                raise gr.Error(str(error)) from error

        return told

    def looked(text: str) -> list[tuple[str, str]]:
        try:
            return [(str(file), f"{score:.3f}") for file, score in answers.images(text)]
        except ValueError as error:
            raise gr.Error(str(error)) from error

    with gr.Blocks(title="sparc demo", analytics_enabled=False) as page:
        gr.Markdown(f"# What does it see?\n{answers.about}. {answers.measured}")
        with gr.Tab("Words on patches"):
            with gr.Row():
                photo = gr.Image(label="Photo", type="numpy", height=260)
                with gr.Column():
                    caption = gr.Textbox(label="Caption", placeholder="a brown fish on snow")
                    button = gr.Button("Which patches does each word gather?", variant="primary")
            some = [[str(file)] for file in answers.files[:6]]
            if some:
                gr.Examples(some, inputs=photo, label="Or one of these")
            viewer = gr.HTML()
            for asked in (button.click, caption.submit):
                asked(answered(words), [photo, caption], viewer, api_name="words")
        with gr.Tab("Boxes of words"):
            with gr.Row():
                second = gr.Image(label="Photo", type="numpy", height=260)
                with gr.Column():
                    texts = gr.Textbox(label="Words, with commas", placeholder="a fish, a cup")
                    find = gr.Button("Where are they?", variant="primary")
            if some:
                gr.Examples(some, inputs=second, label="Or one of these")
            drawn, missing = gr.AnnotatedImage(label="Found"), gr.Markdown()
            for asked in (find.click, texts.submit):
                asked(answered(boxes), [second, texts], [drawn, missing], api_name="boxes")
        if answers.files:
            with gr.Tab("Images of words"):
                text = gr.Textbox(label=f"Among {len(answers.files):,} images")
                gallery = gr.Gallery(label="Best first, with their scores", columns=4)
                text.submit(looked, text, gallery, api_name="images")
    return page


def words(answers: Answers, photo: np.ndarray, caption: str) -> str:
    """The viewer of a caption over photo [H,W,3] uint8, held against the first of the files."""
    others = list(answers.files[: readings.OTHERS])
    names = ["your photo", *(file.name for file in others)]
    opened = [encode.open_image(file) for file in others]
    _, page = answers.words(_image(photo), opened, names, caption)
    return FRAME.format(html.escape(page))


def boxes(
    answers: Answers, photo: np.ndarray, texts: str
) -> tuple[tuple[np.ndarray, list[tuple[tuple[int, ...], str]]], str]:
    """photo with (box, text) of each text that one is drawn for, and what is said of the others."""
    found = answers.boxes(_image(photo), texts)
    drawn = [(tuple(round(x) for x in box), text) for text, box in found if box is not None]
    flat = [text for text, box in found if box is None]
    return (photo, drawn), FLAT + ", ".join(flat) if flat else ""


def serve(page: gradio.Blocks, host: str, port: int, files: Sequence[Path]) -> None:
    """Answer until it is interrupted; of the disk only `files` are shown."""
    page.launch(server_name=host, server_port=port, share=False, allowed_paths=allowed(files))


def allowed(files: Sequence[Path]) -> list[str]:
    """What gradio may hand out: these files alone. Of a folder it would hand out all below it."""
    return sorted({str(file.resolve()) for file in files})


def _image(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photo).permute(2, 0, 1).contiguous()
