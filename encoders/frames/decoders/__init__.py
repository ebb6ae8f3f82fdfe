"""Decoders turn bytes into whole pictures: one module each, behind the protocol in `base`."""
