"""InfoUtil dataset distillation in JAX: informative patches by Shapley value, useful ones by gradient norm."""

__version__ = "0.1.0"
