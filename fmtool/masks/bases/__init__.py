"""The bases of masks, one file each; `masks.registry` lists them."""
