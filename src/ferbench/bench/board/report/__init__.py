"""`ferbench report`: one static HTML page of a results folder. Start with `page.py`."""
