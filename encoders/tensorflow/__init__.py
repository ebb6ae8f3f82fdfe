"""What the encoders that run on TensorFlow share, and modules of TensorFlow Hub."""
