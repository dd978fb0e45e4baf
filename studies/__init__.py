"""The papers' experiments, and the generators of the model zoo's pages: of the repository, not of the wheel."""
