"""Checks that nothing is tested on what was trained on: media and texts are compared by content, not by name."""

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from emorec.datamodules.prepared_data import PreparedData
from emorec.errors import UserError
from emorec.escaping import for_csv

log = logging.getLogger(__name__)

MEDIA = ("audio", "video")
KEY_DIGITS = 16


def content_keys(data: PreparedData, modalities: Sequence[str] = MEDIA) -> dict[str, list[str]]:
    """{utterance: digests of its content in some modalities}; names and paths do not count."""
    keys: dict[str, list[str]] = {item.id: [] for items in data.splits.values() for item in items}
    for modality in modalities:
        if modality in data.features:
            for name, key in data.features[modality].report.keys.items():
                if key is not None and name in keys:
                    keys[name].append(key.hex()[:KEY_DIGITS])
    return keys


def check_splits_apart(data: PreparedData) -> None:
    """Looks for recordings of test that are also in train or val, under whatever name.

    Raises:
        UserError: there are some, and the protocol promises that no speaker recurs.
    """
    keys = content_keys(data)
    used = {key for split in ("train", "val") for item in data.splits[split] for key in keys[item.id]}
    shared = [item.id for item in data.splits["test"] if used & set(keys[item.id])]
    if not shared:
        return
    message = (
        f"{len(shared)} of {len(data.splits['test'])} utterances of test have the sound or picture of an utterance of "
        f"train or val ({', '.join(shared[:3])}{' …' if len(shared) > 3 else ''})"
    )
    protocol = data.manifest.protocols.get(data.corpus.protocol)
    if protocol is not None and protocol.separates_speakers:
        raise UserError(f"expected splits that share no recording (dataset={data.manifest.dataset}): {message}")
    log.warning("%s: %s; emorec data check lists them", data.manifest.dataset, message)


def splits_csv(data: PreparedData) -> str:
    """The split of each utterance, with digests of its media and text, as CSV."""
    media, texts = content_keys(data), content_keys(data, ("text",))
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["id", "split", "sources", "text"])
    table.writerows(
        [for_csv(item.id), split, " ".join(media[item.id]), " ".join(texts[item.id])]
        for split, items in data.splits.items()
        for item in items
    )
    return stream.getvalue()


def check_not_trained_on(
    data: PreparedData,
    split: str,
    folder: Path,
    *,
    where: str = "",
    used_in: Sequence[str] = ("train", "val"),
) -> None:
    """Checks that the run in a folder was not trained or selected on utterances of a split, under whatever name.

    `where` begins the error; `used_in` are the run's splits that count.

    Raises:
        UserError: names some of the utterances that were used.
    """
    path = folder / "splits.csv"
    if not path.is_file():  # a run of an earlier version
        return
    with path.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] in used_in]
    used_media = {key for row in rows for key in (row.get("sources") or "").split()}
    used_texts: dict[str, str] = {}  # by id, also by the id that a combined corpus puts behind the corpus's name
    for row in rows:
        names = (row["id"], row["id"].partition("/")[2])
        used_texts |= dict.fromkeys(map(for_csv, names), row.get("text") or "")
    media, texts = content_keys(data), content_keys(data, ("text",))

    def was_used(name: str) -> bool:
        if used_media and media[name]:
            return bool(used_media & set(media[name]))
        # texts such as "Yes." recur: id and text have to be the same
        used_text = used_texts.get(for_csv(name))
        return used_text is not None and (not used_text or used_text in texts[name])

    items = data.splits[split]
    used = [item.id for item in items if was_used(item.id)]
    if used:
        raise UserError(
            f"{where}expected utterances of {split} that the run was neither trained nor selected on, got {len(used)} "
            f"of {len(items)} that it was ({', '.join(used[:3])} …); name another dataset or fold"
        )
    known = set(used_texts.values()) - {""}
    if recurring := sum(bool(known & set(texts[item.id])) for item in items):
        log.warning("%d of %d texts are also in the train or val split of the run", recurring, len(items))
