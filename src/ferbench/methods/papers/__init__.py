"""The five papers' own methods, a file each: Ada-CM, LEAF, ReMoP, SSFER and PLL-FER."""
