"""Divides the features to compute among all processes that work on the same stores.

Each process holds a claim with a heartbeat in the folder of each store, and beside it a list of the keys that it
computes. It takes some keys at a time, those that nobody else has on a list, while it holds the short claim of the
folder. Once a process has died, or has shown no sign of life for some time, the keys on its list are free again.
"""

import logging
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emorec.features.shard import KEY_BYTES
from emorec.features.store import CLAIM, FeatureStore
from emorec.features.unfinished import Unfinished
from emorec.storage.atomic import remove_orphans, write_bytes
from emorec.storage.claims import Claim, Holder, Watch, claimed, remove_stale, try_claim
from emorec.storage.folders import list_folder
from emorec.storage.regular_files import read_regular

log = logging.getLogger(__name__)

SUFFIX = ".worker.claim"  # of the claim of a process
KEYS_SUFFIX = ".worker.keys"  # of the keys that it computes
POLL_SECONDS = 0.05  # between two attempts at the short claim
LONGEST_PORTION = 2.0  # seconds of work that a process takes at a time
SHORTEST_PORTION = 0.25  # as long as there is more work than for one
LARGEST_LIST = 1 << 28  # bytes: some million keys


def missing_keys(stores: Sequence[FeatureStore], keys: Sequence[bytes]) -> list[bytes]:
    """Those of `keys`, in their order, that are not in all stores."""
    stored: NDArray[np.bool_] = np.logical_and.reduce([store.locate(keys).found for store in stores])
    return [key for key, is_stored in zip(keys, stored, strict=True) if not is_stored]


class Share:
    """What this process computes for some stores; a context manager, inside which it holds its claims.

    Args:
        stores: of the layers of one encoder, which are filled together.
        unfinished: sources that are left out, since a process has not finished decoding them.
        batch_size: smallest number of keys that is taken at a time while there is much to do.
        stale_after: seconds without a heartbeat after which the work of another process is taken over.
        waiting: called while another process plans, or moves shards.

    Attributes:
        taken: all keys that this process has taken.
        others: the processes that compute others, as of the last `take`.
        left: how many keys were neither stored nor computed by this process then.
    """

    def __init__(
        self,
        stores: Sequence[FeatureStore],
        unfinished: Unfinished,
        *,
        batch_size: int,
        stale_after: float,
        waiting: Callable[[Holder | None], None],
    ) -> None:
        self.stores = sorted(stores, key=lambda store: store.folder)  # in one order, to prevent deadlocks
        self.unfinished = unfinished
        self.batch_size, self.stale_after, self.waiting = batch_size, stale_after, waiting
        self.taken: set[bytes] = set()
        self.others: list[Holder] = []
        self.left = 0
        self._claims: dict[Path, Claim] = {}  # {folder: claim of this process}
        self._listed: dict[Path, list[bytes]] = {}  # {claim of this process: the keys beside it}
        self._watches: dict[Path, Watch] = {}  # {claim of another process: its watch}
        self._computed, self._since = 0, time.monotonic()

    def __enter__(self) -> "Share":
        return self

    def __exit__(self, *_: object) -> None:
        for claim in self._claims.values():
            _keys_path(claim.path).unlink(missing_ok=True)  # before the claim, without which it counts as left behind
            claim.release()

    def take(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those of `keys` that this process computes next; none where all are stored or computed by others."""
        for store in self.stores:
            store.refresh()  # what has to be read is read before others wait
        with ExitStack() as locks:
            for store in self.stores:
                path = store.folder / CLAIM
                locks.enter_context(
                    claimed(path, stale_after=self.stale_after, poll=POLL_SECONDS, waiting=self.waiting)
                )
            held = self._held_by_others(keys)
            self.unfinished.refresh()
            missing = [key for key in missing_keys(self.stores, keys) if key not in self.unfinished.reasons]
            free = [key for key in missing if key not in held and key not in self.taken]
            chosen = free[: self._portion(len(free))]
            self.taken.update(chosen)
            self._list([key for key in missing if key in self.taken])
        self.left = sum(key not in self.taken for key in missing) + len(self.taken) - self._computed
        return chosen

    def advance(self, count: int) -> None:
        """Counts keys that this process has computed, for the rate at which it does."""
        self._computed += count

    def give_back(self, keys: Collection[bytes]) -> None:
        """Lets keys be taken again, whose features were lost after they had been computed."""
        self.taken.difference_update(keys)
        self._computed -= len(keys)

    def _portion(self, free: int) -> int:
        """How many of the free keys are taken: fewer towards the end, so that all processes end at the same time."""
        rate = max(0, self._computed) / (time.monotonic() - self._since)
        wanted = max(self.batch_size, int(rate * LONGEST_PORTION))
        if not self.others:
            return wanted
        fair = free // (2 * (1 + len(self.others)))
        return min(wanted, max(1, int(rate * SHORTEST_PORTION), fair))

    def _held_by_others(self, keys: Sequence[bytes]) -> set[bytes]:
        """The keys on the lists of other processes, less those stored. The stores are then as of now."""
        held: set[bytes] = set()
        holders: dict[tuple[str, int], Holder] = {}
        for store in self.stores:
            listed: set[bytes] = set()
            for path in self._claims_of_others(store.folder):
                listed |= _read_keys(path)
                holder = self._watches[path].holder
                if holder is not None:
                    holders[holder.host, holder.pid] = holder
            store.refresh()  # after the lists were read: who leaves meanwhile has stored its keys before
            held.update(missing_keys([store], [key for key in keys if key in listed]))
        self.others = list(holders.values())
        return held

    def _claims_of_others(self, folder: Path) -> list[Path]:
        """The claims of live processes in a folder; removes what dead ones have left there."""
        own, alive = self._claims.get(folder), []
        for path in list_folder(folder, f"*{SUFFIX}"):
            if own is not None and path == own.path:
                continue
            watch = self._watches.setdefault(path, Watch(path, self.stale_after))
            if not watch.stale():
                alive.append(path)
                continue
            log.warning("taking over from %s, which has ended or shows no sign of life (%s)", watch.holder or "?", path)
            remove_stale(path, watch.holder)
        for path in list_folder(folder, f"*{KEYS_SUFFIX}"):
            if not path.with_name(path.name.removesuffix(KEYS_SUFFIX) + SUFFIX).exists():
                path.unlink(missing_ok=True)
        return alive

    def _list(self, keys: list[bytes]) -> None:
        """Writes the list of this process into all folders."""
        for store in self.stores:
            claim = self._claims.get(store.folder)
            if claim is None or not claim.is_held():  # another process has taken this one for dead
                claim = self._claim(store.folder)
            if self._listed.get(claim.path) != keys:
                write_bytes(_keys_path(claim.path), b"".join(keys))
                self._listed[claim.path] = keys

    def _claim(self, folder: Path) -> Claim:
        remove_orphans(folder)
        claim = try_claim(folder / f"{uuid.uuid4().hex}{SUFFIX}")
        assert claim is not None, "nobody else knows its name"
        self._claims[folder] = claim
        return claim


def _keys_path(claim: Path) -> Path:
    return claim.with_name(claim.name.removesuffix(SUFFIX) + KEYS_SUFFIX)


def _read_keys(claim: Path) -> set[bytes]:
    """The keys that a process has listed; where the list cannot be read, others compute the same, which is no harm."""
    content = b""
    with suppress(OSError):
        content = read_regular(_keys_path(claim), most=LARGEST_LIST, follow=False)
    return {content[start : start + KEY_BYTES] for start in range(0, len(content), KEY_BYTES)}
