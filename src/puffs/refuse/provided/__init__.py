"""What `puffs refuse` puts in front of the module search path of programs: `sitecustomize`."""
