"""Decoding while the speaker speaks: audio as it arrives, streams of several speakers in one batch, the text so far."""
