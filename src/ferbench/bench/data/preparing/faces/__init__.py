"""Where is the face in each image: from the data set, from the user, or from a detector. Start with `face_boxes.py`."""
