"""Changes into frames, frames into the log, and out of it what nobody needs any more (P3, P6–P9, P12).

Imports `entries` and `history`; what is to be written is decided above.
"""
