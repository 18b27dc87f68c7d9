"""Ways to explore a trained model: each is a plain function of a Model, a method of ganexp.Model, and a task."""

from ganexp.latent_space import attributes, directions, interpolation, mixing, neighbours, projection, reconstruction, spectrum

__all__ = ["attributes", "directions", "interpolation", "mixing", "neighbours", "projection", "reconstruction", "spectrum"]
