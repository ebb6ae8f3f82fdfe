"""From corpus to index: scan, encode and index as Beam pipelines of self-contained tasks."""
