"""Copying single tables of a running replica anew, at the LSN at which it stands."""
