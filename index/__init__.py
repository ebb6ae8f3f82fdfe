"""The index artifact: build, verify, publish, look up. Imports neither TensorFlow nor Beam."""
