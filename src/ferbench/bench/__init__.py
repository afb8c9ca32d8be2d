"""The harness around methods and protocols, in wings that import downwards only.

`cli` (what a user asks for) stands on `studies` (what is done with finished runs) and `board` (what the numbers carry),
these on `pretraining` (encoders without labels) and `tables` (from a paper's cells to runs), these on `training` (one
run) and that on `data` (from files to batches). `speed` measures all of them. Each wing's own page says where to start.
`files` is the one way to the disk, `terminal` the one way to the screen.
"""
