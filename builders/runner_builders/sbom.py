"""What a build is made of, as a CycloneDX bill of materials. The same build gives the same bytes."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.model import AttachedText, HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Diff, Patch, PatchClassification, Pedigree
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from runner_builders.compile import SOURCE_DATE_EPOCH
from runner_builders.manifest import Manifest
from runner_builders.patches import Patch as OurPatch

VERSIONS = {
    "ggml": ("ggml/CMakeLists.txt", r"set\(GGML_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)\)"),
    "cpp-httplib": ("vendor/cpp-httplib/httplib.h", r'define CPPHTTPLIB_VERSION "(.+?)"'),
    "miniaudio": ("vendor/miniaudio/miniaudio.h", r"define MA_VERSION_(?:MAJOR|MINOR|REVISION)\s+(\d+)"),
    "nlohmann": ("vendor/nlohmann/json.hpp", r"define NLOHMANN_JSON_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)"),
    "stb": ("vendor/stb/stb_image.h", r"stb_image - v([\d.]+)"),
}
"""Where a part of llama.cpp says its version, and how; several matches are its numbers in turn."""


def sbom(manifest: Manifest, *, patches: Iterable[OurPatch], source: Path, source_sha256: str) -> str:
    """The bill of materials of one build, as JSON.

    Args:
        manifest: what was built.
        patches: what was applied to the source.
        source: the tree it was built from; the versions of its parts are read there.
        source_sha256: that tree's checksum.
    """
    name = manifest.binary
    files = [
        Component(name=name, type=ComponentType.FILE, bom_ref=f"file:{name}", hashes=[_sha256(digest)])
        for name, digest in manifest.files.items()
    ]
    product = Component(
        name=name,
        type=ComponentType.APPLICATION,
        version=manifest.commit,
        bom_ref="product",
        components=files,
        properties=[_property(f"option:{option}", value) for option, value in manifest.options.items()],
    )
    upstream = Component(
        name="llama.cpp",
        version=manifest.commit,
        bom_ref="llama.cpp",
        purl=PackageURL("github", "ggml-org", "llama.cpp", manifest.commit),
        properties=[_property("source:tree_sha256", source_sha256)],
        pedigree=Pedigree(patches=[_patch(patch) for patch in patches]) if manifest.patches else None,
    )
    parts = [Component(name=part, version=_version(source, part), bom_ref=part) for part in _parts(source)]
    compiler = Component(name=manifest.compiler, type=ComponentType.APPLICATION, bom_ref="compiler")
    bom = Bom(
        components=[upstream, *parts],
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, repr(sorted(manifest.files.items()))),
        metadata=BomMetaData(
            component=product,
            tools=ToolRepository(components=[compiler]),
            timestamp=datetime.fromtimestamp(SOURCE_DATE_EPOCH, UTC),
        ),
    )
    bom.register_dependency(product, [upstream])
    bom.register_dependency(upstream, parts)
    return JsonV1Dot6(bom).output_as_string(indent=2)


def _parts(source: Path) -> list[str]:
    folders = sorted(path.name for path in source.glob("vendor/*") if path.is_dir())
    return ["ggml", *folders] if (source / "ggml").is_dir() else folders


def _version(source: Path, part: str) -> str | None:
    if part not in VERSIONS or not (source / VERSIONS[part][0]).is_file():
        return None
    path, pattern = VERSIONS[part]
    numbers = re.findall(pattern, (source / path).read_text(encoding="utf-8", errors="replace"))
    return ".".join(numbers[:3]) or None


def _patch(patch: OurPatch) -> Patch:
    text = AttachedText(content=patch.diff.decode("utf-8", "replace"), content_type="text/x-diff")
    return Patch(type=PatchClassification.UNOFFICIAL, diff=Diff(text=text))


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _property(name: str, value: str) -> Property:
    return Property(name=f"runner-supervisor:{name}", value=value)
