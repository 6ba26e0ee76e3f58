"""The project's built images, as one OCI layout in the cache.

Layers are stored once and travel once: images share their base, and a build
after a one-line change differs in its last layer only. Whole archives would
write and read half a gigabyte each time.
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from .settings import Settings

_REF: Final = "org.opencontainers.image.ref.name"
KEPT_BUILDS: Final = 2
"""Builds kept per image: this state of the sources and the one before."""


class ImageStore:
    """Records of builds, each a file named after the image and its content hash, and the blobs that they refer to."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.cache / "images"
        self.layout = self._folder / "layout"

    def record(self, name: str, content: str) -> Path:
        """Return the file that says that this content was built."""
        return self._folder / f"{_safe(name)}-{content}.json"

    def has(self, name: str, content: str) -> bool:
        """Tell whether this content was built."""
        return self.record(name, content).is_file()

    def add(self, name: str, content: str) -> None:
        """Record what buildah has just pushed into the layout under the content hash, and drop what is too old."""
        index = json.loads((self.layout / "index.json").read_text())
        pushed = [m for m in index["manifests"] if m.get("annotations", {}).get(_REF) == content]
        descriptor = {key: pushed[-1][key] for key in ("mediaType", "digest", "size")}
        record = self.record(name, content)
        scratch = record.with_suffix(".tmp")
        scratch.write_text(json.dumps(descriptor))
        scratch.replace(record)
        self._prune(name)

    @contextmanager
    def archive(self, name: str, content: str, without: Collection[str] = ()) -> Iterator[Path]:
        """Give an importable archive of the image, without the blobs that the receiver has."""
        descriptor = json.loads(self.record(name, content).read_text())
        annotated = {**descriptor, "annotations": {"io.containerd.image.name": name, _REF: name}}
        index = {"schemaVersion": 2, "manifests": [annotated]}
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".import-") as scratch:
            file = Path(scratch) / "image.tar"
            with tarfile.open(file, "w") as tar:
                _add_text(tar, "oci-layout", {"imageLayoutVersion": "1.0.0"})
                for digest in self._blobs(descriptor["digest"]):
                    if digest == descriptor["digest"] or digest not in without:
                        tar.add(self._blob(digest), arcname=f"blobs/{digest.replace(':', '/')}")
                _add_text(tar, "index.json", index)
            yield file

    def _blob(self, digest: str) -> Path:
        return self.layout / "blobs" / digest.replace(":", "/")

    def _blobs(self, manifest: str) -> list[str]:
        """Return the digests of a manifest, its configuration and its layers."""
        content = json.loads(self._blob(manifest).read_text())
        return [manifest, content["config"]["digest"], *(layer["digest"] for layer in content["layers"])]

    def _prune(self, name: str) -> None:
        """Drop old records of the image, then every blob that no record of any image needs."""
        records = sorted(
            self._folder.glob(f"{_safe(name)}-*.json"), key=lambda file: file.stat().st_mtime, reverse=True
        )
        for record in records[KEPT_BUILDS:]:
            record.unlink()
        kept = [json.loads(record.read_text())["digest"] for record in self._folder.glob("*.json")]
        needed = {digest for manifest in kept for digest in self._blobs(manifest)}
        index_file = self.layout / "index.json"
        index = json.loads(index_file.read_text())
        index["manifests"] = [manifest for manifest in index["manifests"] if manifest["digest"] in needed]
        index_file.write_text(json.dumps(index))
        for blob in (self.layout / "blobs" / "sha256").iterdir():
            if f"sha256:{blob.name}" not in needed:
                blob.unlink()


def _safe(name: str) -> str:
    return name.removeprefix("docker.io/").replace("/", "_").replace(":", "_")


def _add_text(tar: tarfile.TarFile, name: str, content: dict[str, Any]) -> None:
    data = json.dumps(content).encode()
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
