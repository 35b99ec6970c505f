"""Augmentation in training, on the device: a function of (seed, epoch, id), by way of `emorec.draws`."""
