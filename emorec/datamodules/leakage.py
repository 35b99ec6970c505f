"""Nothing is tested on what was trained on: who heard, saw or read what, by content and not by name."""

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from emorec.datamodules.prepared_data import Data
from emorec.errors import UserError

log = logging.getLogger(__name__)


def content_keys(data: Data, modalities: Sequence[str] = ("audio", "video")) -> dict[str, list[str]]:
    """{utterance: what identifies its content in some modalities, wherever it lies and whatever it is called}."""
    found: dict[str, list[str]] = {item.id: [] for items in data.splits.values() for item in items}
    for modality in modalities:
        if modality in data.features:
            for name, key in data.features[modality].report.keys.items():
                if key is not None and name in found:
                    found[name].append(key.hex()[:16])
    return found


def check_apart(data: Data) -> None:
    """Looks for sounds and pictures of test that are among those of training or validation too, under whatever name.

    Raises:
        UserError: there are some, and the protocol promises that no speaker recurs.
    """
    heard = content_keys(data)
    used = {key for split in ("train", "val") for item in data.splits[split] for key in heard[item.id]}
    shared = [item.id for item in data.splits["test"] if used & set(heard[item.id])]
    if not shared:
        return
    told = (
        f"{len(shared)} of {len(data.splits['test'])} utterances of test have the sound or picture of one that is "
        f"trained or validated on ({', '.join(shared[:3])}{' …' if len(shared) > 3 else ''})"
    )
    rule = data.manifest.protocols.get(data.corpus.protocol)
    if rule is not None and rule.speaker_independent:
        raise UserError(f"expected splits that share no recording (dataset={data.manifest.dataset}): {told}")
    log.warning("%s: %s; emorec data check lists them", data.manifest.dataset, told)


def splits_csv(data: Data) -> str:
    """Which utterance was in which split, as it was for this run, and what was heard and seen of it."""
    heard, said = content_keys(data), content_keys(data, ("text",))
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["id", "split", "sources", "text"])
    table.writerows(
        [item.id, split, " ".join(heard[item.id]), " ".join(said[item.id])]
        for split, items in data.splits.items()
        for item in items
    )
    return stream.getvalue()


def refuse_trained(data: Data, split: str, folder: Path) -> None:
    """Refuses to test a run on what it was trained or chosen on, whatever that is called now.

    Args:
        data: what is to be tested on.
        split: which of its splits.
        folder: the run's directory.

    Raises:
        UserError: names some of what was trained or chosen on.
    """
    path = folder / "splits.csv"
    if not path.is_file():  # a run of an earlier version
        return
    with path.open(newline="") as stream:
        used = [row for row in csv.DictReader(stream) if row["split"] in ("train", "val")]
    sources = {source for row in used for source in (row.get("sources") or "").split()}
    texts: dict[str, str] = {}  # by name, also without that of a corpus among several
    for row in used:
        texts |= dict.fromkeys((row["id"], row["id"].partition("/")[2]), row.get("text") or "")
    heard, said = content_keys(data), content_keys(data, ("text",))

    def was_used(name: str) -> bool:
        if sources and heard[name]:
            return bool(sources & set(heard[name]))
        # a text that recurs is no leak: name and text have to be the same
        return name in texts and (not texts[name] or texts[name] in said[name])

    found = [item.id for item in data.splits[split] if was_used(item.id)]
    known = set(texts.values()) - {""}
    again = sum(bool(known & set(said[item.id])) for item in data.splits[split])
    if again and not found:
        told = "%d of %d texts are among those that the run was trained or chosen on"
        log.warning(told, again, len(data.splits[split]))
    if found:
        raise UserError(
            f"expected utterances that the run was neither trained nor chosen on, got {len(found)} of "
            f"{len(data.splits[split])} that it was ({', '.join(found[:3])} …); name another dataset"
        )
