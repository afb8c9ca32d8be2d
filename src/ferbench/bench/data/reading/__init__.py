"""What is in the user's folder? Text files, folders and class names, read strictly.

Whatever the bytes are, the outcome is rows or one DataError with file and line. Start with `listing.py`, which says
what a reader tells of a copy before an image is decoded; `reader.py` is a data set as the command line sees it.
"""
