"""Bytes become sampled frames: decoders, sampling, and the limits of one GIF."""
