"""One module per backend, each satisfying `plan.Backend`. A new backend is one file and one line here."""

from runner_builders.backends import cpu, cuda, hip, metal, vulkan
from runner_builders.plan import Backend

BACKENDS: dict[str, Backend] = {"cpu": cpu, "cuda": cuda, "metal": metal, "vulkan": vulkan, "hip": hip}
