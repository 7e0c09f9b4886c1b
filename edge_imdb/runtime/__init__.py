"""How a bundle is found, checked, opened and run."""
