"""What encoders on TensorFlow share, and TensorFlow Hub modules."""
