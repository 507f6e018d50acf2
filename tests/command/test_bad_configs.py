"""Config files that are broken, endless or more than a config end in one line."""

from __future__ import annotations

import pytest

from sparc_pretrain.command import cli
from sparc_pretrain.engine import mmengine_patches
from tests.commands import call, refusal

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
BAD = {
    "itself.py": "_base_ = './itself.py'\n",
    "raises.py": "x = 1 / 0\n",
    "unknown_name.py": "model = dict(width=widht)\n",
    "not_python.py": "model = dict(\n",
    "bytes.py": b"\xff\xfe\x00",
    "nul.py": b"x = 1\x00",
    "anchor.yaml": "a: &a [*a]\n",
    "laughs.yaml": LAUGHS,
    "deep.yaml": "a: " + "[" * 100_000 + "]" * 100_000,
    "tag.yaml": "x: !!python/object/apply:os.system ['true']\n",
    "colon.yaml": "a: b: c\n",
    "list.yaml": "- 1\n- 2\n",
    "deep.json": "[" * 100_000 + "]" * 100_000,
    "cut.json": '{"model": ',
    "list.json": "[1, 2]",
    "strange.toml": "x = 1\n",
    "reserved.py": "filename = 'x'\n",
    "base_is_a_number.py": "_base_ = 3\n",
    "imports.py": "custom_imports = dict(imports='no_such_module_at_all')\n",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_config_is_refused_in_one_line_that_names_it(tmp_path, name):
    mmengine_patches.install()
    path, content = tmp_path / name, BAD[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ValueError, OSError, ImportError)) as caught:
        cli.read_config(path)
    assert name.split(".")[0] in str(caught.value) or "no_such_module" in str(caught.value)
    line = refusal(call("pretrain", path, "--work-dir", tmp_path / "work"))
    assert "\n" not in line and not (tmp_path / "work").exists()
