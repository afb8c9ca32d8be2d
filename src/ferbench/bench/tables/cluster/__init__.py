"""How does a table get done on many machines? By a Ray cluster's tasks, one for each run.

Start with `driver.py`, which sends the runs out; `worker.py` trains one of them, `keeper.py` alone writes the results,
`setup.py` is what all of them are told, and `nodes.py` looks at the machines before anything starts. Ray is imported
when a cluster is asked for.
"""
