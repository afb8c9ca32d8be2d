"""How do the user's files become batches on the device?

`reading` knows files and labels, `preparing` makes the cache, `sets` has a folder per data set, `splits` says which
images are labelled, and `views` crops, flips and colours them. Start with `faceset.py`: every room speaks of a FaceSet.
"""
