"""A corpus of a lab's own that says when it is read."""

from dataclasses import dataclass
from pathlib import Path

from emorec.datasets.demo import Demo
from emorec.datasets.manifest import Manifest
from tests.faults.conftest import append_line


@dataclass(kw_only=True)
class JournaledDemo(Demo):
    """The demo corpus, with a line in the file `journal` for each time that it is read."""

    journal: str

    def scan(self) -> Manifest:
        append_line(Path(self.journal), "read")
        return super().scan()
