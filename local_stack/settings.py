"""Where the stack keeps its state and which ports it takes: read once from the environment. Pure, but for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from local_stack.processes import StackError

REPOSITORY = Path(__file__).resolve().parent.parent

AIRFLOW_PORT = "NIGHTLABEL_AIRFLOW_PORT"
POSTGRES_PORT = "NIGHTLABEL_POSTGRES_PORT"
STORE_PORT = "NIGHTLABEL_STORE_PORT"
DEFAULT_PORTS = {AIRFLOW_PORT: 8080, POSTGRES_PORT: 5433, STORE_PORT: 8333}


@dataclass(frozen=True, slots=True)
class StackSettings:
    """The settings of the embedded stack."""

    state: Path
    """Folder of everything that the stack keeps; ``NIGHTLABEL_STATE``."""
    airflow_port: int
    postgres_port: int
    store_port: int
    dags_folder: Path
    """``NIGHTLABEL_DAGS_FOLDER``."""
    plugins_folder: Path
    """``NIGHTLABEL_PLUGINS_FOLDER``."""

    @property
    def ports(self) -> dict[str, int]:
        """The ports by the names of their settings."""
        return {AIRFLOW_PORT: self.airflow_port, POSTGRES_PORT: self.postgres_port, STORE_PORT: self.store_port}

    def environment(self) -> dict[str, str]:
        """Return the variables that give these settings in any folder."""
        folders = {
            "NIGHTLABEL_STATE": self.state,
            "NIGHTLABEL_DAGS_FOLDER": self.dags_folder,
            "NIGHTLABEL_PLUGINS_FOLDER": self.plugins_folder,
        }
        return {name: str(value) for name, value in {**self.ports, **folders}.items()}

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> StackSettings:
        """Read the settings.

        Raises:
            StackError: a port is no port, or two parts would get the same one.
        """
        ports = {name: _port(environment, name) for name in DEFAULT_PORTS}
        for name, port in ports.items():
            others = [other for other in ports if other != name and ports[other] == port]
            if others:
                raise StackError(f"{name} and {others[0]} are both {port}; give each part a port of its own.")

        def folder(name: str, default: Path) -> Path:
            return Path(environment.get(name) or default).expanduser().absolute()

        return cls(
            state=folder("NIGHTLABEL_STATE", REPOSITORY / ".state"),
            airflow_port=ports[AIRFLOW_PORT],
            postgres_port=ports[POSTGRES_PORT],
            store_port=ports[STORE_PORT],
            dags_folder=folder("NIGHTLABEL_DAGS_FOLDER", REPOSITORY / "dags"),
            plugins_folder=folder("NIGHTLABEL_PLUGINS_FOLDER", REPOSITORY / "plugins"),
        )


def _port(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name) or str(DEFAULT_PORTS[name])
    if not text.isascii() or not text.isdigit() or not 1024 <= int(text) <= 65535:
        raise StackError(f"{name} is {text!r}, expected a port number from 1024 to 65535.")
    return int(text)
