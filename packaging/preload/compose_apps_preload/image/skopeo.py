"""Reading registries, by skopeo: its configuration files say where they are and who one is."""

import hashlib
import re
import shutil
from pathlib import Path

from ..errors import PreloadError
from . import tool

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Everything is checked by digest, and a host need not have a policy file.
_SKOPEO = ("skopeo", "--insecure-policy")
_V2S2 = "application/vnd.docker.distribution.manifest.v2+json"


def digest_of(data: bytes) -> str:
    """Return `sha256:<hex>` of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def is_pinned(reference: str) -> bool:
    """Tell whether a reference names its image by digest."""
    return _DIGEST.fullmatch(reference.rpartition("@")[2]) is not None and "@" in reference


def repository(reference: str) -> str:
    """Return a reference without tag and digest."""
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def host(reference: str) -> str:
    """Return the registry of a reference, `host[:port]`; docker.io where none is named."""
    first, slash, _ = reference.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return first
    return "docker.io"


def raw(reference: str) -> bytes:
    """Return the manifest or index that `reference` names, byte by byte.

    Raises `PreloadError` if the registry does not have it, or has something else.
    """
    done = tool.run((*_SKOPEO, "inspect", "--raw", f"docker://{_without_tag(reference)}"))
    _, _, digest = reference.partition("@")
    if digest and digest_of(done.stdout) != digest:
        raise PreloadError(f"{reference}: the registry sent something else", "try again")
    return done.stdout


def config(reference: str) -> bytes:
    """Return the config of the image whose manifest `reference` names; raises `PreloadError`."""
    argv = (*_SKOPEO, "inspect", "--raw", "--config", f"docker://{_without_tag(reference)}")
    return tool.run(argv).stdout


def copy(reference: str, media_type: str, blobs: Path, scratch: Path) -> None:
    """Fetch the manifest that `reference` names, its config and its layers, digests kept.

    `blobs` is a folder shared by many images: what is in `blobs/sha256` is not fetched again.
    Raises `PreloadError`.
    """
    try:
        tool.run(
            (
                *(*_SKOPEO, "copy", "--quiet", "--preserve-digests", "--retry-times=3"),
                # An OCI layout takes docker's manifests only when told so.
                f"--format={'v2s2' if media_type == _V2S2 else 'oci'}",
                f"--dest-shared-blob-dir={blobs}",
                "--dest-oci-accept-uncompressed-layers",
                f"docker://{_without_tag(reference)}",
                f"oci:{scratch}:image",
            )
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _without_tag(reference: str) -> str:
    """skopeo takes a tag or a digest, not both."""
    if "@" in reference:
        return f"{repository(reference)}@{reference.partition('@')[2]}"
    return reference
