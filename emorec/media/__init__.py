"""From a file or a transcript to an array: sound, picture, text. Decoders are imported when they are needed."""
