"""LoRAs: small files whose low-rank matrices change the weights of SDXL.

spellings.py   the names that files give to the weights
forms.py       how the factors make a difference: LoRA, LoHa, LoKr, DoRA, ...
files.py       reads a file, strictly
sources.py     where a LoRA comes from, and how strongly it counts
merging.py     adds the differences to weights
"""
