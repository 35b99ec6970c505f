"""Files on disks that many processes share: atomic writes, digests, claims and links."""
