"""What ANCHORs say of the publication and its tables: what entries of each kind mean, and how they compare
with what is seen now. `schemachange` says which changes of a table can be followed at all.

At the bottom: it imports nothing of capture, and nothing here reads the log or writes to it.
"""
