"""Golden plans, one JSON file each in goldens/. Written again by `python -m tests.unit.builders.goldens`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.unit.builders.machines import (
    CARDS,
    GTX_1080,
    LINUX,
    LINUX_ARM64,
    MAC,
    MAC_INTEL,
    PIN,
    RTX_5090,
    WINDOWS,
    cuda,
    driver,
    gcc,
    windows_cuda,
    with_gpu,
)

from runner_builders.auto import choose_backend
from runner_builders.backends import BACKENDS
from runner_builders.errors import BuilderError
from runner_builders.plan import Wishes, make_plan
from runner_builders.report import plan_fields
from runner_builders.toolchain import Tool, Toolchain

FOLDER = Path(__file__).with_name("goldens")
CACHE = Path("/cache/cuda")
PORTABLE = Wishes(portable=True, wheels=CACHE)
NO_WISHES = Wishes(wheels=CACHE)

Case = tuple[Toolchain, str, Wishes]


def cases() -> dict[str, Case]:
    """Every golden plan by name: a machine, a backend (auto: the machine's own), and what was asked for."""
    vulkan = replace(LINUX.tools, glslc=Tool(Path("/usr/bin/glslc"), "2023.8"))
    hip = replace(LINUX.tools, hipcc=Tool(Path("/opt/rocm/bin/hipcc"), "6.3.1"))
    universal = Wishes(arch=("arm64", "x86_64"), wheels=CACHE)
    return {
        "linux-x86_64-cpu": (LINUX, "auto", NO_WISHES),
        "linux-x86_64-cpu-portable": (LINUX, "cpu", PORTABLE),
        "linux-x86_64-cpu-v3": (LINUX, "cpu", Wishes(arch=("x86-64-v3",))),
        "linux-arm64-cpu": (LINUX_ARM64, "auto", NO_WISHES),
        "linux-arm64-cpu-portable": (LINUX_ARM64, "cpu", PORTABLE),
        **{
            f"linux-cuda-{major}-sm_{card.architecture}": (
                with_gpu(card, toolkit=cuda(major, minor)),
                "auto",
                NO_WISHES,
            )
            for major, minor in ((12, 8), (13, 0))
            for card in CARDS
        },
        "linux-cuda-13-no-gpu": (replace(LINUX, cuda=cuda(13, 0, cublas=False)), "cuda", NO_WISHES),
        "linux-cuda-13-portable": (with_gpu(RTX_5090, toolkit=cuda(13, 0)), "cuda", PORTABLE),
        "linux-cuda-13-portable-wheel": (replace(LINUX, cuda=cuda(13, 0, cublas=False)), "cuda", PORTABLE),
        "linux-cuda-13-pascal": (with_gpu(GTX_1080, toolkit=cuda(13, 0)), "auto", NO_WISHES),
        "linux-cuda-12.4-sm_120": (with_gpu(RTX_5090, toolkit=cuda(12, 4)), "auto", NO_WISHES),
        "linux-cuda-12-gcc-15": (
            replace(with_gpu(RTX_5090, toolkit=cuda(12, 8)), compilers=gcc(15, 1, 0)),
            "cuda",
            NO_WISHES,
        ),
        "linux-cuda-13-old-driver": (
            replace(LINUX, cuda=cuda(13, 0), driver=driver(12, 2, version="535.183.01", gpus=(CARDS[0],))),
            "cuda",
            NO_WISHES,
        ),
        "linux-vulkan": (replace(LINUX, tools=vulkan), "vulkan", NO_WISHES),
        "linux-hip": (replace(LINUX, tools=hip), "hip", Wishes(arch=("gfx1100",))),
        "windows-cpu": (WINDOWS, "auto", NO_WISHES),
        "windows-cuda": (with_gpu(RTX_5090, toolkit=windows_cuda(12, 8), machine=WINDOWS), "auto", NO_WISHES),
        "macos-arm64-metal": (MAC, "auto", NO_WISHES),
        "macos-universal-metal": (MAC, "metal", universal),
        "macos-x86_64-cpu": (MAC_INTEL, "auto", NO_WISHES),
        "macos-x86_64-metal": (MAC_INTEL, "metal", NO_WISHES),
    }


def planned(case: Case) -> dict[str, Any]:
    """The plan of a case as JSON holds it, or the error that it ends in."""
    toolchain, backend, wishes = case
    choice = choose_backend(toolchain) if backend == "auto" else None
    name = choice.backend if choice else backend
    try:
        plan = make_plan(name=name, backend=BACKENDS[name], pin=PIN, toolchain=toolchain, wishes=wishes)
    except BuilderError as error:
        return {"backend": name, "error": str(error)}
    return plan_fields(plan)


def text_of(name: str) -> str:
    """A golden file's text, as it is now."""
    return json.dumps(planned(cases()[name]), indent=2) + "\n"


def main() -> None:
    """Write all files again."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for name in cases():
        (FOLDER / f"{name}.json").write_text(text_of(name))


if __name__ == "__main__":
    main()
