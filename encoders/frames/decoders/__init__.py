"""From bytes to whole pictures: one module a decoder, behind the protocol in `base`."""
