"""runner-supervisor: supervises llama.cpp's llama-server and fronts it on one dependable address."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("runner-supervisor")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0+source"
