"""Which peers there are, and what is tried with each before the measurement; the fastest is measured. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Engine = Literal["tensorflow", "litert"]


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer with an engine."""

    name: str
    """Of the row in the table."""
    module: str
    """Of ``benchmarks.peers``."""
    engine: Engine
    choices: tuple[dict[str, Any], ...]


# `spared_cores` are left to fetching and decoding by the engine's threads.
LOOP = ({"batch_size": 8}, {"batch_size": 32})
RAY = (
    {"batch_size": 32, "fetch_cpus": 0.5, "block_images": 100},
    {"batch_size": 8, "fetch_cpus": 0.5, "block_images": 100},
    {"batch_size": 32, "fetch_cpus": 1.0, "block_images": 100},
    {"batch_size": 32, "fetch_cpus": 0.5, "block_images": 25},
    {"batch_size": 32, "fetch_cpus": 0.5, "block_images": 100, "spared_cores": 1},
)
BEAM = (
    {"batch_size": 8, "mode": "in_memory", "workers": 1},
    {"batch_size": 32, "mode": "in_memory", "workers": 1},
    {"batch_size": 32, "mode": "multi_threading", "workers": 0},
    {"batch_size": 8, "mode": "multi_threading", "workers": 0},
)
DAFT = (
    {"batch_size": 32, "morsel": 0},
    {"batch_size": 8, "morsel": 0},
    {"batch_size": 32, "morsel": 64},
    {"batch_size": 32, "morsel": 64, "spared_cores": 1},
)

PEERS = (
    Peer("plain loop, TensorFlow", "plain_loop", "tensorflow", LOOP),
    Peer("plain loop, LiteRT", "plain_loop", "litert", LOOP),
    Peer("Ray Data, TensorFlow", "ray_data", "tensorflow", RAY),
    Peer("Ray Data, LiteRT", "ray_data", "litert", RAY),
    Peer("Beam RunInference, TensorFlow", "beam_inference", "tensorflow", BEAM),
    Peer("Daft, TensorFlow", "daft_cls", "tensorflow", DAFT),
    Peer("Daft, LiteRT", "daft_cls", "litert", DAFT),
)
