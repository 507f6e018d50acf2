"""Which backbones convert and which do not: the rows of docs/conversions.md, each with the case of
`tests/convert` that shows it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Converts:
    """A family that becomes a run folder.

    names: what to give tools/convert.py. text: whether its text tower comes along. cases: small
    models with random weights in ``tests/convert/sources.py``, as ``library:case``.
    """

    family: str
    names: tuple[str, ...]
    text: bool
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """One that does not. name: what people would give, why: the reason, in the words of the line
    that refuses it; case: a model type of transformers or an arch of timm.
    """

    name: str
    why: str
    case: str


CONVERTS = (
    Converts(
        "CLIP",
        ("openai/clip-vit-base-patch16", "ViT-B-16:openai", "ViT-B-16:laion2b_s34b_b88k"),
        True,
        ("hf:clip", "hf:clip_gelu", "open_clip:openai", "open_clip:laion"),
    ),
    Converts(
        "MetaCLIP",
        ("facebook/metaclip-b16-fullcc2.5b", "ViT-B-16-quickgelu:metaclip_fullcc"),
        True,
        ("hf:clip", "open_clip:openai"),
    ),
    Converts("MetaCLIP 2", ("facebook/metaclip-2-worldwide-b16",), True, ("hf:metaclip_2",)),
    Converts(
        "SigLIP",
        ("google/siglip-base-patch16-224", "ViT-B-16-SigLIP:webli"),
        True,
        ("hf:siglip", "open_clip:siglip", "timm:siglip"),
    ),
    Converts(
        "SigLIP 2, fixed size",
        ("google/siglip2-base-patch16-224", "vit_base_patch16_siglip_224.v2_webli"),
        True,
        ("hf:siglip2", "timm:siglip2"),
    ),
    Converts(
        "DINOv2, with registers too",
        ("facebook/dinov2-base", "vit_base_patch14_reg4_dinov2.lvd142m"),
        False,
        (
            "hf:dinov2",
            "hf:dinov2_swiglu",
            "hf:dinov2_with_registers",
            "timm:registers",
            "timm:swiglu",
        ),
    ),
    Converts(
        "DINOv3",
        ("facebook/dinov3-vitb16-pretrain-lvd1689m", "vit_base_patch16_dinov3.lvd1689m"),
        False,
        ("hf:dinov3", "hf:dinov3_gated", "timm:dinov3", "timm:dinov3_gated"),
    ),
    Converts(
        "EVA-02",
        ("eva02_base_patch14_224.mim_in22k", "eva02_base_patch16_clip_224.merged2b"),
        False,
        ("timm:eva02", "timm:eva02_clip"),
    ),
    Converts(
        "Perception Encoder",
        ("vit_pe_core_base_patch16_224.fb", "vit_pe_spatial_base_patch16_512.fb"),
        False,
        ("timm:pe_core", "timm:pe_spatial"),
    ),
    Converts(
        "ViT, DeiT",
        (
            "vit_base_patch16_224.augreg_in21k",
            "deit3_base_patch16_224.fb_in1k",
            "google/vit-base-patch16-224-in21k",
        ),
        False,
        ("timm:vit_tiny", "timm:deit", "timm:deit3", "timm:gap", "hf:vit"),
    ),
    Converts(
        "ViT with axial rotary positions",
        ("vit_base_patch16_rope_224.naver_in1k",),
        False,
        ("timm:rope",),
    ),
)
REFUSED = (
    Refused("SigLIP 2 NaFlex", "NaFlex reads patches of any aspect", "siglip2"),
    Refused("DINOv3 ConvNeXt", "a convolutional network", "dinov3_convnext"),
    Refused("BEiT", "not a plain Vision Transformer", "beit_base_patch16_224"),
    Refused("Swin", "not a plain Vision Transformer", "swin_tiny_patch4_window7_224"),
    Refused(
        "ViT with mixed rotary positions",
        "angles of its own in each block",
        "vit_small_patch16_rope_mixed_224",
    ),
    Refused("EVA-02 enormous", "EvaBlockPostNorm", "eva02_enormous_patch14_clip_224"),
)


def page() -> str:
    """docs/conversions.md."""
    lines = [
        "# Backbones that people bring",
        "",
        "`sparc convert NAME runs/mine` makes a run folder of them; its features are "
        "compared with the source's before anything is written, and have to agree to 1e-5 of the "
        "largest. Made by `sparc_pretrain/convert/catalogue.py`; a test compares this page with it "
        "and converts each family's small model with random weights. We have not downloaded the "
        "weights themselves: where a family's files differ from its code, the comparison says so.",
        "",
        "| family | names | text tower | tested as |",
        "|---|---|---|---|",
    ]
    for row in CONVERTS:
        given = "<br>".join(f"`{name}`" for name in row.names)
        text = "yes" if row.text else "has none, or is left out"
        lines.append(f"| {row.family} | {given} | {text} | {', '.join(row.cases)} |")
    lines += [
        "",
        "Refused, with the reason:",
        "",
        "| family | reason |",
        "|---|---|",
        *(f"| {row.name} | {row.why} |" for row in REFUSED),
        "",
        "Towers with rotary positions (EVA-02, DINOv3, Perception Encoder) run at any image size "
        "and in windows; they leave for timm alone, and take no `relative_positions`. timm's files "
        "hold no text towers: take open_clip's or Hugging Face's name for both.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
