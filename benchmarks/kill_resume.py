"""Kill a measurement with SIGKILL again and again, resume it, and look for lost points and broken files.

Of operators (`kvpred profile`) or of whole runs (`kvpred measure`).

Every other kill comes at a random moment after the first point began, the others amid the writing of files.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from kvpred.data.runs import read_runs
from kvpred.data.store import find_profiles, read_profile
from kvpred.errors import DataError

CONFIG = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 256, "max_position_embeddings": 8192,
}  # fmt: skip
# More would wait for each other longer than they compute.
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
METHODS = 2  # h2o, and fp16 that is always measured
STARTED = re.compile(r"^kvpred: \d+/\d+ (?!starting|probing)", re.MULTILINE)
LONGEST_WAIT_S = 1.0
GLANCE_S = 0.001


@dataclass
class Found:
    """What the kills did."""

    kills: int = 0
    kills_amid_a_write: int = 0
    sweeps: int = 1
    points: int = 0
    points_lost: int = 0
    points_redone: int = 0
    points_twice: int = 0
    corrupt_files: int = 0
    unfinished_tables: int = 0
    drafts_left: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing but work in progress was ever lost."""
        return not any(
            (
                self.points_lost,
                self.points_twice,
                self.corrupt_files,
                self.unfinished_tables,
                self.drafts_left,
            )
        )


class Sweep:
    """A sweep of a tiny model in a folder of its own."""

    name, journal = "profile", "sweep.jsonl"
    key: tuple[str, ...] = ("method", "stage", "bsz", "length")
    options: tuple[str, ...] = ()
    most_glances = 40

    def __init__(self, place: Path, n_lengths: int) -> None:
        self.root = place / "measured"
        self.log = place / "log"
        model, grid = place / "tiny" / "config.json", place / "grid.toml"
        model.parent.mkdir(parents=True)
        model.write_text(json.dumps(CONFIG))
        grid.write_text(self.grid([16 * (i + 1) for i in range(n_lengths)]))
        self.n_points = METHODS * 2 * n_lengths
        asked = ("--method", "h2o", "--model", model, "--grid", grid, "--output", self.root, *self.options)
        self.command = [sys.executable, "-m", "kvpred", self.name, *map(str, asked)]

    @staticmethod
    def grid(lengths: list[int]) -> str:
        """Return a grid that has two points of a method at each length."""
        stage = f"bsz = [1]\nlength = {lengths}\n"
        return f"rounds = 1\nrepeats = 2\nsteps = 2\n[prefill]\n{stage}[decode]\n{stage}"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process, or go on with it."""
        with self.log.open("w") as log:
            return subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=log, env=ONE_THREAD)

    def started(self) -> int:
        """Count the points that the process began."""
        return len(STARTED.findall(self.log.read_text()))

    def lines(self) -> list[bytes]:
        """Return the journal's whole lines."""
        path = self.root / self.journal
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []

    def points(self) -> list[tuple[object, ...]]:
        """Return the keys of the points in the journal."""
        found = [point for point in map(json.loads, self.lines()) if "bsz" in point]
        return [tuple(point[name] for name in self.key) for point in found]

    def drafts(self) -> set[str]:
        """Return the names of the files and folders that are being written, or were when a process died."""
        names = (name for _, folders, files in os.walk(self.root) for name in (*folders, *files))
        return {name for name in names if name.endswith(".tmp")}

    def read(self) -> int:
        """Read what was written; return how many methods' tables are finished."""
        profiles = [read_profile(key.path) for key in find_profiles(self.root)] if self.root.exists() else []
        return sum(
            profile.manifest is not None and profile.manifest.status == "finished" for profile in profiles
        )


class Runs(Sweep):
    """Whole runs of a tiny model under transformers, two rounds of each site."""

    name, journal = "measure", "measure.jsonl"
    key = ("method", "bsz", "prompt_len", "repeat")
    options = ("--engine", "transformers", "--repeats", "2")
    # Tables are written once per site, not after every point.
    most_glances = 4

    @staticmethod
    def grid(lengths: list[int]) -> str:
        """Return a grid of as many sites as lengths."""
        return f"bsz = [1]\nprompt_len = {lengths}\noutput_len = 2\n"

    def read(self) -> int:
        """Read the table of runs; a method's part is finished with a prefill and a decode of every point."""
        if not (self.root / "runs.csv").exists():
            return 0
        counts = Counter(run.method for run in read_runs(self.root / "runs.csv"))
        return sum(METHODS * count == 2 * self.n_points for count in counts.values())


KINDS = {kind.name: kind for kind in (Sweep, Runs)}


def wait(sweep: Sweep, process: subprocess.Popen[bytes], rng: random.Random, *, amid_a_write: bool) -> None:
    """Wait for the moment to kill."""
    if amid_a_write:
        glances, old = rng.randint(1, sweep.most_glances), sweep.drafts()
        while process.poll() is None and glances:
            glances -= not sweep.drafts() <= old
            time.sleep(GLANCE_S)
        return
    while process.poll() is None and not sweep.started():
        time.sleep(0.01)
    time.sleep(rng.uniform(0, LONGEST_WAIT_S))


def corrupt(sweep: Sweep) -> bool:
    """Whether something that was written cannot be read."""
    try:
        sweep.read()
    except DataError as error:
        print(error, file=sys.stderr)
        return True
    return False


def check(process: subprocess.Popen[bytes], sweep: Sweep) -> bool:
    """Wait for the end of a process; return whether it came by itself, which must be without an error."""
    code = process.wait()
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"the sweep ended with {code}: {sweep.log.read_text()}")
    return code == 0


def kill(sweep: Sweep, found: Found, rng: random.Random) -> None:
    """Start a process, kill it, and look at what it left; nothing is counted if it was faster."""
    before, n_before = sweep.lines(), len(sweep.points())
    process = sweep.start()
    old = sweep.drafts()
    wait(sweep, process, rng, amid_a_write=found.kills % 2 == 1)
    process.kill()
    if check(process, sweep):
        return
    after = sweep.lines()
    found.kills += 1
    found.kills_amid_a_write += not sweep.drafts() <= old
    found.points_lost += sum(line not in after[i : i + 1] for i, line in enumerate(before))
    found.points_redone += sweep.started() - (len(sweep.points()) - n_before)
    found.corrupt_files += corrupt(sweep)


def finish(sweep: Sweep, found: Found) -> None:
    """Let the sweep end, and check that it is whole."""
    before = sweep.lines()
    check(sweep.start(), sweep)
    found.points_lost += sum(line not in sweep.lines()[i : i + 1] for i, line in enumerate(before))
    counts = Counter(sweep.points())
    found.points += len(counts)
    found.points_lost += sweep.n_points - len(counts)
    found.points_twice += counts.total() - len(counts)
    found.corrupt_files += corrupt(sweep)
    found.unfinished_tables += METHODS - sweep.read()
    found.drafts_left += len(sweep.drafts())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--what", choices=sorted(KINDS), default="profile")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    rng = random.Random(arguments.seed)
    found, kind = Found(), KINDS[arguments.what]
    with tempfile.TemporaryDirectory() as place:
        sweep = kind(Path(place) / "1", arguments.kills)
        while found.kills < arguments.kills:
            if len(sweep.points()) == sweep.n_points:
                finish(sweep, found)
                found.sweeps += 1
                sweep = kind(Path(place) / str(found.sweeps), arguments.kills)
            kill(sweep, found, rng)
        finish(sweep, found)
    print(json.dumps(asdict(found) | {"seed": arguments.seed}))
    sys.exit(not found.clean)


if __name__ == "__main__":
    main()
