"""Region vectors made elsewhere, in the layouts of the public files."""

import base64
import io
import json
import pickle

import numpy as np
import pytest
import torch

from sparc_pretrain.data.dataset import PairDataset, TooManyBadSamples, collate
from sparc_pretrain.data.element_json import BadElements
from sparc_pretrain.data.region_files import RegionFiles
from tests.data.test_fields import TOKENIZER, shards

SIZE = (40, 60)  # H, W
COUNT, WIDTH = 10, 8


def arrays(number: int) -> dict[str, np.ndarray]:
    """12 regions of image `number`, 11 of them surer than 0.2."""
    random = np.random.default_rng(number)
    low = random.uniform(0, 0.5, (12, 2))
    box = np.concatenate([low, low + 0.4], axis=1)
    probs = random.dirichlet(np.ones(4), 12)
    return dict(
        features=random.normal(size=(12, WIDTH)).astype(np.float16),
        norm_bb=np.concatenate([box, box[:, 2:] - box[:, :2]], axis=1).astype(np.float16),
        conf=np.linspace(0.9, 0.15, 12).astype(np.float16),
        soft_labels=probs.astype(np.float16),
    )


def npz_folder(folder):
    folder.mkdir()
    for n in range(COUNT):
        np.savez_compressed(folder / f"{n}.npz", **arrays(n))
    return dict(kind="npz", path=str(folder), width=WIDTH)


def tsv_file(folder, index: bool = True):
    folder.mkdir()
    rows, starts, at = [], [], 0
    for n in range(COUNT):
        found = arrays(n)
        sides = found["norm_bb"][:, [5, 4]]  # some files have them exchanged
        table = np.concatenate([found["features"], found["norm_bb"][:, :4], sides], axis=1)
        raw = base64.b64encode(table.astype(np.float32).tobytes()).decode()
        rows.append(f"{n}\t12\t{raw}\n")
        starts.append(at)
        at += len(rows[-1])
    (folder / "features.tsv").write_text("".join(rows))
    if index:
        (folder / "features.lineidx").write_text("".join(f"{start}\n" for start in starts))
        (folder / "imageid2idx.json").write_text(json.dumps({str(n): n for n in range(COUNT)}))
    return dict(kind="tsv", path=str(folder / "features.tsv"), width=WIDTH)


def lmdb_folder(folder, packed: bool):
    """As UNITER's: keys of COCO, values compressed npz or msgpack-numpy."""
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(folder)).begin(write=True) as transaction:
        for n in range(COUNT):
            if packed:
                msgpack = pytest.importorskip("msgpack")
                value = msgpack.packb(
                    {
                        name: {
                            b"nd": True,
                            b"type": x.dtype.str,
                            b"kind": b"",
                            b"shape": x.shape,
                            b"data": x.tobytes(),
                        }
                        for name, x in arrays(n).items()
                    }
                )
            else:
                file = io.BytesIO()
                np.savez_compressed(file, **arrays(n))
                value = file.getvalue()
            transaction.put(f"coco_train2014_{n:012d}.npz".encode(), value)
    return dict(kind="lmdb", path=str(folder), width=WIDTH, name="coco_train2014_{:012d}.npz")


def test_the_public_layouts_give_the_same_regions(tmp_path):
    folder, tsv = npz_folder(tmp_path / "npz"), tsv_file(tmp_path / "tsv")
    bare = tsv_file(tmp_path / "bare", index=False)
    for n in (0, 3, 9):
        one, other, third = (
            RegionFiles.of(config).read(f"coco/{n}", "s:k", SIZE) for config in (folder, tsv, bare)
        )
        assert len(one.state) == 11 and len(other.state) == 12  # conf; Oscar's have none
        for key in ("state", "box"):
            assert torch.equal(getattr(one, key), getattr(other, key)[:11])
            assert torch.equal(getattr(other, key), getattr(third, key))
        wanted = torch.from_numpy(arrays(n)["features"][:11].astype(np.float32))
        assert torch.equal(one.state, wanted) and one.probs.shape == (11, 4)


@pytest.mark.parametrize("packed", [False, True])
def test_uniters_database_gives_what_the_folder_gives(tmp_path, packed):
    folder = RegionFiles.of(npz_folder(tmp_path / "npz"))
    reader = pickle.loads(pickle.dumps(RegionFiles.of(lmdb_folder(tmp_path / "db", packed))))
    for n in (0, 9):
        one, other = (files.read(f"coco/{n}", "k", SIZE) for files in (folder, reader))
        assert all(
            torch.equal(getattr(one, k), getattr(other, k)) for k in ("state", "box", "probs")
        )
    with pytest.raises(BadElements, match="no region vectors of 77"):
        reader.read("77", "77", SIZE)


def test_boxes_in_pixels_and_the_least_number_of_regions(tmp_path):
    (tmp_path / "npz").mkdir()
    boxes = np.tile(np.array([6.0, 4, 30, 20]), (14, 1))
    content = dict(features=np.ones((14, WIDTH)), boxes=boxes, conf=np.full(14, 0.1))
    np.savez(tmp_path / "npz/a.npz", **content, labels=np.arange(14))
    files = RegionFiles("npz", tmp_path / "npz", WIDTH)
    found = files.read("x/none", "shard:a", SIZE)  # by its key
    assert len(found.state) == 10 and found.label.tolist() == list(range(10))
    assert found.box[0].tolist() == pytest.approx([0.1, 0.1, 0.5, 0.5])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (dict(features=np.ones((12, 2054))), r"\(12, 2054\) \(2048 and six.*wanted \[n,8\]"),
        (dict(features=np.full((12, WIDTH), np.nan)), "no finite numbers"),
        (dict(features=np.array([b"x"] * 12)), "no finite numbers"),
        (dict(features=np.array([{}] * 12)), "cannot be read"),
        (dict(soft_labels=np.ones((3, 4))), r"arrays of \[12, 12, 12, 3\] regions"),
        (dict(norm_bb=None), "no features with norm_bb or boxes"),
    ],
)
def test_what_cannot_be_is_told_with_the_file_and_both_shapes(tmp_path, change, told):
    content = {k: v for k, v in (arrays(0) | change).items() if v is not None}
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz/0.npz", **content)
    with pytest.raises(BadElements, match=told) as refused:
        RegionFiles("npz", tmp_path / "npz", WIDTH).read("0", "0", SIZE)
    assert "0.npz" in str(refused.value)


def test_a_config_that_cannot_be_is_refused(tmp_path):
    for config, told in (
        (dict(kind="h5", path=str(tmp_path)), "kind='h5'"),
        (dict(kind="npz"), "kind and path"),
        (dict(kind="npz", path=str(tmp_path), widht=3), "kind and path"),
    ):
        with pytest.raises(ValueError, match=told):
            RegionFiles.of(config)
    with pytest.raises(FileNotFoundError, match="is not there"):
        RegionFiles.of(dict(kind="npz", path=str(tmp_path / "none")))
    config = npz_folder(tmp_path / "npz")
    file = shards(tmp_path, dict(captions=["a house"], image_id="x/1"))
    with pytest.raises(ValueError, match="crop must be 'none'"):
        PairDataset(file, TOKENIZER, fields=dict(regions=3, region_files=config))
    fields = dict(regions=3, region_files=config, crop="none")
    with pytest.raises(ValueError, match="flip must be 0"):
        PairDataset(file, TOKENIZER, fields=fields, flip=0.5)


def test_a_batch_has_the_vectors_of_its_images_and_missing_ones_are_bad_samples(tmp_path):
    config = npz_folder(tmp_path / "npz")
    members = [dict(captions=["a house"], image_id=f"x/{n}") for n in (3, 5)]
    fields = dict(regions=4, region_files=config, crop="none")
    data = PairDataset(shards(tmp_path, *members), TOKENIZER, image_size=32, fields=fields)
    batch = collate([data[0], data[1]])
    for row, n in enumerate((3, 5)):
        wanted = torch.from_numpy(arrays(n)["features"][:4].astype(np.float32))
        assert torch.equal(batch.regions.state[row], wanted)
    assert batch.regions.valid.all() and batch.regions.probs.shape == (2, 4, 4)
    data = PairDataset(
        shards(tmp_path / "b", dict(captions=["a"], image_id="99")), TOKENIZER, fields=fields
    )
    with pytest.raises(TooManyBadSamples, match="no region vectors of 99"):
        data[0]
