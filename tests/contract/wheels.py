"""Wheels and locks made by hand, so that no test needs a package index."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


def make_sdist(folder: Path, name: str, version: str, *, setup: str = "") -> Path:
    """Write a source distribution of one module, built by setuptools."""
    module = name.replace("-", "_")
    top = f"{module}-{version}"
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{module}.py": f"VERSION = {version!r}\n",
        "setup.py": f"{setup}\nfrom setuptools import setup\n"
        f"setup(name={name!r}, version={version!r}, py_modules=[{module!r}])\n",
    }
    path = folder / f"{top}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file, text in files.items():
            entry = tarfile.TarInfo(f"{top}/{file}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


@contextmanager
def served(folder: Path, uploaded: Mapping[str, str], *, dated: bool = True) -> Generator[str]:
    """Serve a folder of wheels as an index, each with the day of its upload; give its address.

    Parameters
    ----------
    uploaded
        By the beginning of a file's name: ``{"demo_alpha-2": "2024-01-01"}``.
    dated
        Whether the index says when a file was uploaded; some private ones do not.
    """

    def day(file: str) -> str:
        return next((d for begin, d in uploaded.items() if file.startswith(begin)), "2000-01-01")

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/").split("/")[-1]
            wheel = folder / name
            if wheel.is_file():
                self.answer("application/octet-stream", wheel.read_bytes())
                return
            files = [
                {
                    "filename": path.name,
                    "url": f"/files/{path.name}",
                    "hashes": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
                    "size": path.stat().st_size,
                    **({"upload-time": f"{day(path.name)}T00:00:00Z"} if dated else {}),
                }
                for path in sorted(folder.glob(f"{name.replace('-', '_')}-*"))
            ]
            if not files:
                self.send_error(404)
                return
            page = {"meta": {"api-version": "1.1"}, "name": name, "files": files}
            kind = "application/vnd.pypi.simple.v1+json"
            self.answer(kind, json.dumps(page).encode())

        def answer(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 -- the library's name

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the same
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/simple"
        finally:
            server.shutdown()
            thread.join()
