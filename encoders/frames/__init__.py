"""Turn bytes into sampled frames: decoders, sampling, and the limits of one GIF."""
