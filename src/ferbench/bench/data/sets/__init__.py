"""Where does my data set go? A folder per data set, and a line in `readers.py`.

A folder holds the reader, its parsers and `fake.py`, which generates tiny copies for tests. No folder knows another.
Start with `own/folder.py`, the shortest reader, or with `rafdb/`, a typical one.
"""
