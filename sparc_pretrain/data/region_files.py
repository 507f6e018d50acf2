"""Region vectors that a detector elsewhere has made: a folder of npz files, UNITER's LMDB, Oscar's
TSV.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparc_pretrain.data.element_json import BadElements

KINDS = ("npz", "lmdb", "tsv")
CONFIDENT, LEAST, MOST = 0.2, 10, 100  # UNITER's rule of how many regions of a file are kept
FIRST = 50  # regions of Oscar's that are kept
GEOMETRY = 6  # numbers behind each vector of Oscar's
# What a width that is not the wanted one usually is.
KNOWN = {
    2048: "bottom-up attention's vectors alone",
    2054: "2048 and six numbers of geometry, Oscar's and VinVL's",
    2055: "2048 and seven numbers of geometry",
    1024: "vectors of a ResNeXt-101 or of half the width",
    1027: "1024 and three numbers more",
    1601: "class probabilities of Visual Genome, not vectors",
}


@dataclass(frozen=True)
class FoundRegions:
    """Of one image: state [n,F] float32, box [n,4] (x0 y0 x1 y1 in 0..1), label [n] long (0 = not
    said), probs [n,C] or None.
    """

    state: Tensor
    box: Tensor
    label: Tensor
    probs: Tensor | None = None


class RegionFiles:
    """Region vectors by image, from `data.fields.region_files`.

    Args:
        kind: 'npz' = a folder of ID.npz with `features` [n,F], `boxes` [n,4] (pixels, x0 y0 x1 y1)
            or `norm_bb` [n,>=4] (0..1), optionally `conf` [n], `soft_labels` [n,C], `labels` [n];
            'lmdb' = UNITER's: the same under keys, as compressed npz or msgpack; 'tsv' = Oscar's
            features.tsv with imageid2idx.json and features.lineidx beside it.
        path: of the folder or file. width: F. name: the key of an image, where {} is its number or
            name: UNITER's COCO is "coco_train2014_{:012d}.npz".

    Raises ValueError for another kind, FileNotFoundError where there is nothing.
    """

    def __init__(self, kind: str, path: str | Path, width: int = 2048, name: str = "{}.npz"):
        if kind not in KINDS:
            raise ValueError(f"data.fields.region_files.kind={kind!r}: use one of {KINDS}")
        self.kind, self.path, self.width, self.name = kind, Path(path), width, name
        if not self.path.exists():
            raise FileNotFoundError(f"data.fields.region_files: {path} is not there")

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> RegionFiles | None:
        """From a config's dict. Raises ValueError naming what it lacks or has too much."""
        if not config:
            return None
        known = {"kind", "path", "width", "name"}
        if not {"kind", "path"} <= set(config) <= known:
            raise ValueError(
                f"data.fields.region_files has {sorted(config)}: kind and path, and of {known}"
            )
        return cls(**config)

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes open files of their own."""
        opened = ("_database", "_rows")
        return {key: value for key, value in vars(self).items() if key not in opened}

    def read(self, image_id: str, key: str, size: tuple[int, int]) -> FoundRegions:
        """The regions of an image of `size` (H, W), looked up by its id without what stands before
        a slash, then by its key.

        Raises BadElements: none are there, or they are of another shape, or no numbers.
        """
        wanted = dict.fromkeys((image_id.rpartition("/")[2], key.rpartition(":")[2]))
        for one in wanted:
            found = self._find(one, size)
            if found is not None:
                return found
        raise BadElements(f"no region vectors of {' or '.join(wanted)} in {self.path.name}")

    def _find(self, one: str, size: tuple[int, int]) -> FoundRegions | None:
        if self.kind == "tsv":
            return self._tsv(one, size)
        key = self._key(one)
        if self.kind == "npz":
            file = self.path / key
            if not file.is_file():
                return None
            raw, source = file.read_bytes(), str(file)
        else:
            with self._database.begin() as transaction:
                raw = transaction.get(key.encode())
            if raw is None:
                return None
            raw, source = bytes(raw), f"{self.path}: {key}"
        return self._of_arrays(unpacked(raw, source), source, size)

    def _key(self, one: str) -> str:
        try:
            return self.name.format(int(one) if one.isdigit() and ":" in self.name else one)
        except ValueError:  # a number's format, and no number
            return one

    @cached_property
    def _database(self) -> Any:
        try:
            import lmdb
        except ModuleNotFoundError:
            raise ValueError(
                "region_files of kind 'lmdb' need the package lmdb: pip install lmdb"
            ) from None
        return lmdb.open(str(self.path), readonly=True, lock=False, readahead=False)

    def _of_arrays(
        self, arrays: Mapping[str, np.ndarray], source: str, size: tuple[int, int]
    ) -> FoundRegions:
        """UNITER's arrays -> regions, those kept that its released code keeps."""
        boxes = "norm_bb" if "norm_bb" in arrays else "boxes"
        if "features" not in arrays or boxes not in arrays:
            raise BadElements(f"{source} has {sorted(arrays)}: no features with norm_bb or boxes")
        state = self._checked(arrays["features"], source)
        box = _numbers(arrays[boxes], source, boxes)[:, :4]
        if boxes == "boxes":
            height, width = size
            box = box / box.new_tensor([width, height, width, height])
        kept = min(MOST, len(state))
        if "conf" in arrays:
            sure = int((_numbers(arrays["conf"], source, "conf") > CONFIDENT).sum())
            kept = min(max(LEAST, sure), MOST, len(state))
        label = torch.zeros(len(state), dtype=torch.long)
        if "labels" in arrays:
            label = torch.as_tensor(np.asarray(arrays["labels"]).astype(np.int64))
        probs = arrays.get("soft_labels")
        probs = None if probs is None else _numbers(probs, source, "soft_labels")
        parts = [state, box, label] + ([] if probs is None else [probs])
        if len({len(part) for part in parts}) > 1:
            raise BadElements(f"{source}: arrays of {[len(part) for part in parts]} regions")
        return FoundRegions(*(part[:kept] for part in parts))

    def _checked(self, features: np.ndarray, source: str) -> Tensor:
        """Vectors of the wanted width. Raises BadElements, saying what the found one usually is."""
        state = _numbers(features, source, "features")
        if state.ndim != 2 or state.shape[1] != self.width:
            found = tuple(state.shape)
            usual = KNOWN.get(found[-1] if found else 0)
            told = f" ({usual})" if usual else ""
            raise BadElements(
                f"{source}: features of {found}{told}, wanted [n,{self.width}]: set "
                "data.fields.region_files.width and model.objective.region_width"
            )
        return state

    # ------------------------------------------------------------ Oscar's

    @cached_property
    def _rows(self) -> tuple[dict[str, int], list[int]]:
        """image -> row, and where rows begin."""
        beside = self.path.with_suffix(".lineidx")
        starts: list[int] = []
        if beside.is_file():
            starts = [int(line) for line in beside.read_text().split()]
        else:
            with open(self.path, "rb") as file:
                starts = [0, *(file.tell() for _ in iter(file.readline, b""))][:-1]
        named = self.path.parent / "imageid2idx.json"
        if named.is_file():
            return json.loads(named.read_text(encoding="utf-8")), starts
        rows = {}
        with open(self.path, "rb") as file:
            for row, start in enumerate(starts):
                file.seek(start)
                rows[_cell(file).decode()] = row
        return rows, starts

    def _tsv(self, one: str, size: tuple[int, int]) -> FoundRegions | None:
        """A row: id, number, base64 of float32 [n,F+6]; the last six numbers are x0 y0 x1 y1 and
        two sides, whose order the sources do not agree on: nobody reads them here.
        """
        rows, starts = self._rows
        if one not in rows:
            return None
        with open(self.path, "rb") as file:
            file.seek(starts[rows[one]])
            cells = file.readline().rstrip(b"\r\n").split(b"\t")
        source = f"{self.path}: {one}"
        try:
            count, raw = int(cells[1]), base64.b64decode(cells[2], validate=True)
        except (IndexError, ValueError, binascii.Error):
            raise BadElements(f"{source}: no row of id, number and base64") from None
        if not count or len(raw) % (4 * count):
            raise BadElements(f"{source}: {len(raw)} bytes of {count} vectors in float32")
        table = np.frombuffer(raw, np.float32).reshape(count, -1)[:FIRST]
        if table.shape[1] != self.width + GEOMETRY:
            found = table.shape[1]
            told = f" ({KNOWN[found]})" if found in KNOWN else ""
            raise BadElements(
                f"{source}: vectors of {found}{told}, wanted {self.width} and {GEOMETRY} numbers "
                "of geometry: set data.fields.region_files.width"
            )
        state = self._checked(table[:, : self.width], source)
        box = _numbers(table[:, self.width : self.width + 4], source, "boxes").clamp(0, 1)
        return FoundRegions(state, box, torch.zeros(len(state), dtype=torch.long))


def unpacked(raw: bytes, source: str) -> dict[str, np.ndarray]:
    """The arrays of a compressed npz, or of msgpack with numpy arrays; no code is executed.

    Raises BadElements.
    """
    if raw[:2] == b"PK":
        try:
            with np.load(io.BytesIO(raw), allow_pickle=False) as file:
                return dict(file)
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise BadElements(f"{source} cannot be read: {error}") from None
    try:
        import msgpack
    except ModuleNotFoundError:
        raise ValueError(
            f"{source} is msgpack: reading it needs the package: pip install msgpack"
        ) from None

    def array(value: dict) -> Any:
        """msgpack-numpy's form of an array."""
        part = {k.decode() if isinstance(k, bytes) else k: v for k, v in value.items()}
        if not part.get("nd"):
            return part
        kind = part["type"]
        kind = kind.decode() if isinstance(kind, bytes) else kind
        return np.frombuffer(part["data"], np.dtype(kind)).reshape(part["shape"])

    try:
        found = msgpack.unpackb(raw, object_hook=array, raw=False, strict_map_key=False)
    except (ValueError, TypeError, KeyError, msgpack.exceptions.UnpackException) as error:
        raise BadElements(f"{source} is neither npz nor msgpack: {error}") from None
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def _cell(file: io.BufferedReader) -> bytes:
    """What stands before the next tab."""
    found = b""
    while not found.endswith(b"\t") and (byte := file.read(1)):
        found += byte
    return found.rstrip(b"\t")


def _numbers(array: np.ndarray, source: str, name: str) -> Tensor:
    """float32. Raises BadElements for what is none."""
    array = np.asarray(array)
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise BadElements(f"{source}: {name} of {array.dtype} are no finite numbers")
    return torch.as_tensor(array.astype(np.float32))
