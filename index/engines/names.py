"""What the engines are called: in manifests, in Python and on the command line."""

ANNOY, SCAN, HNSW = "annoy", "scan", "hnsw"
