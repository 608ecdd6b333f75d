"""P7: which records of the log are valid, as one pure function that capture and every reader use.

State (`Chain`) is a value; `judge` takes a frame and returns the new chain and a verdict. Nothing
is remembered elsewhere, so any two readers of the same records agree.
"""
