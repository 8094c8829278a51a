"""Training: configuration, the trainer and its evaluation. Imports neither ase, rdkit nor pymatgen."""
