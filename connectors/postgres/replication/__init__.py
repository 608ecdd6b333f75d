"""The source's stream: slot, walsender, pgoutput messages and what is made of them."""
