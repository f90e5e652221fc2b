"""Oracles that need PyTorch or TensorFlow; `make test-parity` runs them."""
