"""The network: radial functions, equivariant layers, the shared encoder and its heads."""
