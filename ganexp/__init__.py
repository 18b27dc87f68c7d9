"""ganexp: composable GAN experiments. Run `python -m ganexp --help`."""

__version__ = "0.1.0"
