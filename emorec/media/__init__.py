"""Reads files and transcripts: sound, video and text as arrays. Decoders are imported when they are needed."""
