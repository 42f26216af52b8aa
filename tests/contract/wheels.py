"""Wheels and locks made by hand, so that no test needs a package index."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path


def make_wheel(folder: Path, name: str, version: str, *, requires: Sequence[str] = ()) -> None:
    """Write a wheel of one module, which knows its version."""
    module = name.replace("-", "_")
    about = f"{module}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    files = {
        f"{module}.py": f"VERSION = {version!r}\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    lines = [f"{path},sha256={_record_hash(text)},{len(text)}\n" for path, text in files.items()]
    files[f"{about}/RECORD"] = "".join([*lines, f"{about}/RECORD,,\n"])
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def _record_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def make_uv_lock(project: Path, wheels: Path) -> None:
    """Write what ``uv lock`` writes for a project that needs demo-alpha from an index."""
    index = "https://index.example"
    text = 'version = 1\nrevision = 3\nrequires-python = ">=3.9"\n\n'
    for name, version, needs in (("demo-alpha", "1.0", "demo-beta"), ("demo-beta", "1.5", "")):
        wheel = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        digest = hashlib.sha256((wheels / wheel).read_bytes()).hexdigest()
        text += f'[[package]]\nname = "{name}"\nversion = "{version}"\n'
        text += f'source = {{ registry = "{index}/simple" }}\n'
        text += f'dependencies = [{{ name = "{needs}" }}]\n' if needs else ""
        text += f'wheels = [{{ url = "{index}/{wheel}", hash = "sha256:{digest}" }}]\n\n'
    text += '[[package]]\nname = "p"\nversion = "1"\nsource = { virtual = "." }\n'
    text += 'dependencies = [{ name = "demo-alpha" }]\n\n'
    text += '[package.metadata]\nrequires-dist = [{ name = "demo-alpha" }]\n'
    (project / "uv.lock").write_text(text)
