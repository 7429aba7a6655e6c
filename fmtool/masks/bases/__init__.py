"""The bases that masks can be in, one file each; `masks.basis` lists them."""
