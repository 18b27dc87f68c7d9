"""A trained model for elsewhere: a folder with weights, config and model card, programs for other runtimes, the Hub, and samples
in the layouts that other tools read."""
