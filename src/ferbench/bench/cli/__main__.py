"""`python -m ferbench.bench.cli`: the console command by another name, as torchrun needs it."""

from ferbench.bench.cli import main

main()
