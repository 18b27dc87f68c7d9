"""Studies: settings times seeds, each job an ordinary run in a folder of its own."""
