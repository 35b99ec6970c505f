"""Reads files and transcripts: sound, video and text as arrays.

`audio` and `video` are what encoders call. They ask processes of their own (`decoding_process`), which import the
decoders (`sound`, `tracks`, `sampling`, `frames`, `video_track`) and nothing else.
"""
